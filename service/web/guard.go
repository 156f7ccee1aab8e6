package web

import (
	"net/http"
	"strings"
)

// guard refuses, before any routing, requests that two programs on the way
// could read in two ways. A proxy that guards /admin and a router that decodes
// %2f do not mean the same path, so a path here is plain or it is refused.
func guard(next http.Handler, fail func(http.ResponseWriter, *http.Request, *problem)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !plainPath(r):
			fail(w, r, unreadable("The path is ambiguous: it may hold no percent-encoding, no empty or dot segments, no backslash and no semicolon."))
		case len(r.TransferEncoding) > 0:
			// Go drops Content-Length when both are there, so the conflict that
			// request smuggling lives on could not be seen later.
			fail(w, r, unreadable("Send a Content-Length; chunked bodies are not taken."))
		case len(r.Header.Values("Authorization")) > 1:
			fail(w, r, unreadable("There is more than one Authorization header."))
		case r.Header.Get("Content-Encoding") != "" && !strings.EqualFold(r.Header.Get("Content-Encoding"), "identity"):
			fail(w, r, refuse(http.StatusUnsupportedMediaType, "unsupported_media_type", "Send the body without Content-Encoding."))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// plainPath reports whether the path of r can be read in one way only.
func plainPath(r *http.Request) bool {
	path := r.URL.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		return false // "*", an authority, or nothing
	}
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c <= ' ', c >= 0x7f, c == '%', c == '\\', c == ';':
			return false
		}
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	return !strings.Contains(path, "//")
}
