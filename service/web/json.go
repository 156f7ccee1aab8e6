package web

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"
)

// Caps on bodies, in bytes.
const (
	maxLogin  = 16 << 10
	maxConfig = 512 << 10
	maxJSON   = 1 << 20
	maxModule = 16 << 20
)

// readJSON decodes the request's body into v, strictly: one object, no
// duplicate, unknown, differently-cased or null members, nothing after it.
func readJSON(c echo.Context, limit int64, v any) error {
	if err := wantType(c, "application/json"); err != nil {
		return err
	}
	body, err := readBody(c, limit)
	if err != nil {
		return err
	}
	return parseJSON(body, v)
}

// readJSONIfAny is readJSON for calls whose body may be left out.
func readJSONIfAny(c echo.Context, limit int64, v any) error {
	if c.Request().ContentLength == 0 {
		return nil
	}
	return readJSON(c, limit, v)
}

func readBody(c echo.Context, limit int64) ([]byte, error) {
	r := c.Request()
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Response(), r.Body, limit))
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return nil, err
	}
	if err != nil {
		return nil, unreadable("The body ended early.")
	}
	return body, nil
}

// wantType refuses any other media type, and parameters but charset=utf-8: a
// cross-site form cannot send JSON's type without a preflight.
func wantType(c echo.Context, want string) error {
	got := c.Request().Header.Values(echo.HeaderContentType)
	if len(got) == 1 {
		media, params, err := mime.ParseMediaType(got[0])
		charset, has := params["charset"]
		if err == nil && media == want && (len(params) == 0 || len(params) == 1 && has && strings.EqualFold(charset, "utf-8")) {
			return nil
		}
	}
	return refuse(http.StatusUnsupportedMediaType, "unsupported_media_type", "Send Content-Type: "+want+".")
}

// parseJSON does the decoding. Its errors say where and what, never the value.
func parseJSON(body []byte, v any) error {
	if _, err := readObject(body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, v, json.RejectUnknownMembers(true), noNull); err != nil {
		return whereJSON(err)
	}
	return nil
}

// noNull refuses null for every member that has a type of ours, at any depth: it
// would silently be the same as leaving the member out. What has none, such as
// a field of a credential, is the verifier's to judge.
var noNull = json.WithUnmarshalers(json.UnmarshalFromFunc(func(d *jsontext.Decoder, v any) error {
	if _, free := v.(*any); !free && d.PeekKind() == jsontext.KindNull {
		return errNull
	}
	return errors.ErrUnsupported
}))

var errNull = errors.New("null")

// readObject reads one JSON object: no name twice at any depth, UTF-8, nothing
// after it.
func readObject(body []byte) (map[string]jsontext.Value, error) {
	var members map[string]jsontext.Value
	if err := json.Unmarshal(body, &members); err != nil {
		return nil, whereJSON(err)
	}
	if members == nil {
		return nil, unreadable("The body is not a JSON object.")
	}
	return members, nil
}

// whereJSON says where a body cannot be read.
func whereJSON(err error) error {
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return wrongType(string(syntax.JSONPointer), "is there twice")
		}
		return unreadable(fmt.Sprintf("The body is not valid JSON at byte %d.", syntax.ByteOffset))
	}
	var own *problem
	if errors.As(err, &own) {
		return own
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		if errors.Is(err, errNull) {
			return wrongType(string(semantic.JSONPointer), "may not be null")
		}
		if errors.Is(err, json.ErrUnknownName) {
			return wrongType(string(semantic.JSONPointer), "is not a member of this call")
		}
		return wrongType(string(semantic.JSONPointer), "has the wrong JSON type")
	}
	return unreadable("The body is not valid JSON.")
}

// wrongType is a 400 about one member, named by its JSON pointer.
func wrongType(pointer, message string) error {
	field := strings.ReplaceAll(strings.TrimPrefix(pointer, "/"), "/", ".")
	if field == "" {
		return unreadable("The body is not a JSON object.")
	}
	if len(field) > 100 {
		field = field[:100]
	}
	p := unreadable("A member cannot be read.")
	p.Errors = []fieldError{{field, message}}
	return p
}

// onlyQuery refuses query parameters that the call does not have, and any that
// stands there twice: a second "tenant" must not be believed by anybody.
func onlyQuery(names []string) echo.MiddlewareFunc {
	takesAll := slices.Contains(names, "*")
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if takesAll || c.Request().URL.RawQuery == "" {
				return next(c)
			}
			query, err := url.ParseQuery(c.Request().URL.RawQuery)
			if err != nil {
				return unreadable("The query cannot be read.")
			}
			for name, values := range query {
				if !slices.Contains(names, name) || len(values) > 1 {
					p := unreadable("A query parameter is unknown or stands there twice.")
					p.Errors = []fieldError{{cut(name, 100), "is unknown here or stands there twice"}}
					return p
				}
			}
			return next(c)
		}
	}
}
