package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	doorward "github.com/doorward/doorward/sdk/guest/go"
)

// values are what placeholders stand for in one request.
type values struct {
	r        *doorward.Request
	username string
	kept     map[string]string // of the first step, in the second
}

// of is what a placeholder stands for. Whether it may stand in a URL is the
// second result: URLs are in the logs of every proxy on the way.
func (v values) of(name string) (value string, inURL bool, err error) {
	kind, rest, named := strings.Cut(name, ":")
	switch {
	case !named:
		switch name {
		case "username":
			return v.username, true, nil
		case "password", "code":
			return v.r.Credential.Text(name), false, nil
		case "ip":
			return v.r.Client.IP, true, nil
		case "user_agent":
			return v.r.Client.UserAgent, true, nil
		case "app":
			return v.r.Client.App, true, nil
		case "tenant":
			return v.r.Tenant, true, nil
		case "request_id":
			return v.r.RequestID, true, nil
		}
	case kind == "credential":
		return v.r.Credential.Text(rest), false, nil
	case kind == "kept":
		value, there := v.kept[rest]
		if !there {
			return "", false, fmt.Errorf("{%s}: the first step keeps nothing by that name", name)
		}
		return value, false, nil
	case kind == "secret":
		value, err := doorward.Secret(rest)
		if err != nil {
			return "", false, fmt.Errorf("{%s}: %w", name, err)
		}
		return value, false, nil
	}
	return "", false, fmt.Errorf("{%s} stands for nothing", name)
}

// fill puts values into a template's placeholders, each written by place as its
// place wants it. A brace that begins no placeholder stands for itself.
func fill(template string, place func(name string) (string, error)) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(template, "{")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || !isName(name) {
			out.WriteByte('{')
			template = rest
			continue
		}
		value, err := place(name)
		if err != nil {
			return "", err
		}
		out.WriteString(value)
		template = after
	}
}

// isName reports whether what is between braces is meant as a placeholder.
func isName(s string) bool {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_:.-", r)
	})
}

// text fills a template whose place takes any text: a form's field, which is
// escaped as a whole afterwards.
func (v values) text(template string) (string, error) {
	return fill(template, func(name string) (string, error) {
		value, _, err := v.of(name)
		return value, err
	})
}

// errTyped: what the user typed cannot stand where it should. It is no name or
// password that anybody has.
var errTyped = errors.New("what was typed cannot stand there")

// address fills the URL. Only its path and query have placeholders, so that
// nobody's name chooses the host; in a path a name is one step of it.
func (v values) address(template string) (string, error) {
	host := strings.Index(template, "://")
	if host < 0 {
		return "", errors.New(`"url" is no https:// address`)
	}
	path := strings.IndexAny(template[host+3:], "/?")
	if path < 0 {
		path = len(template) - host - 3
	}
	path += host + 3
	if strings.Contains(template[:path], "{") {
		return "", errors.New(`"url" has a placeholder in its host`)
	}
	steps, query, asks := strings.Cut(template[path:], "?")
	place := func(escape func(string) string) func(string) (string, error) {
		return func(name string) (string, error) {
			value, inURL, err := v.of(name)
			if err == nil && !inURL {
				err = fmt.Errorf("{%s} does not belong into a URL, which others log: put it into \"form\", \"json\" or \"headers\"", name)
			}
			return escape(value), err
		}
	}
	filled, err := fill(steps, place(url.PathEscape))
	if err != nil {
		return "", err
	}
	for _, step := range strings.Split(filled, "/") { // a name that is ".." leads elsewhere, escaped or not
		if step == "." || step == ".." {
			return "", errTyped
		}
	}
	out := template[:path] + filled
	if !asks {
		return out, nil
	}
	filled, err = fill(query, place(url.QueryEscape))
	return out + "?" + filled, err
}

// header fills a header. What would end it is refused: a name of two lines is
// nobody's, and a secret of two lines is a mistake.
func (v values) header(template string) (string, error) {
	if controls(template) {
		return "", errors.New(`a value of "headers" has a control character`)
	}
	return fill(template, func(name string) (string, error) {
		value, _, err := v.of(name)
		switch {
		case err == nil && controls(value) && strings.HasPrefix(name, "secret:"):
			return "", fmt.Errorf("{%s} has a control character, such as the end of a line: set it again without", name)
		case err == nil && controls(value):
			return "", errTyped
		}
		return value, err
	})
}

func controls(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// form is the body of a form.
func (v values) form(fields map[string]string) (string, error) {
	out := url.Values{}
	for name, template := range fields {
		value, err := v.text(template)
		if err != nil {
			return "", err
		}
		out.Set(name, value)
	}
	return out.Encode(), nil
}

// json is a JSON body: placeholders are filled in its strings, and then it is
// written, so that no value can leave its string.
func (v values) json(template json.RawMessage) (string, error) {
	tree, err := decode(string(template))
	if err != nil {
		return "", fmt.Errorf(`"json": %w`, err)
	}
	if tree, err = v.fillTree(tree); err != nil {
		return "", err
	}
	out, err := json.Marshal(tree)
	return string(out), err
}

func (v values) fillTree(tree any) (any, error) {
	var err error
	switch at := tree.(type) {
	case string:
		return v.text(at)
	case []any:
		for i := range at {
			if at[i], err = v.fillTree(at[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for name := range at {
			if at[name], err = v.fillTree(at[name]); err != nil {
				return nil, err
			}
		}
	}
	return tree, nil
}

// decode is JSON with its numbers as they are written: an id may be longer than a
// float64 is exact.
func decode(text string) (any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("more than one JSON value")
	}
	return tree, nil
}

// at is what a JSON pointer (RFC 6901) points at. "" is all of it.
func at(tree any, pointer string) (any, bool) {
	if pointer == "" {
		return tree, true
	}
	for step := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		step = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
		switch here := tree.(type) {
		case map[string]any:
			next, there := here[step]
			if !there {
				return nil, false
			}
			tree = next
		case []any:
			n, ok := index(step)
			if !ok || n >= len(here) {
				return nil, false
			}
			tree = here[n]
		default:
			return nil, false
		}
	}
	return tree, true
}

// index reads an array's index as RFC 6901 writes it: no sign, no leading zero.
func index(step string) (n int, ok bool) {
	if step == "" || len(step) > 6 || step[0] == '0' && step != "0" {
		return 0, false
	}
	for _, c := range step {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}
