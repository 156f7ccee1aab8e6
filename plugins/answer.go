package plugins

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/doorward/doorward/sdk/abi"
)

// readAnswer checks what a guest answered before anybody believes it, and fills
// what it left out. Members that are not known are returned by name: a guest of
// a newer contract may send them.
func readAnswer(output []byte) (v abi.Verdict, unknown []string, err error) {
	if len(output) == 0 {
		return v, nil, errors.New("it returned without an answer")
	}
	if len(output) > abi.MaxOutput {
		return v, nil, fmt.Errorf("its answer has %d bytes; %d are the limit", len(output), abi.MaxOutput)
	}
	answer := jsontext.Value(output)
	if !answer.IsValid() { // also: UTF-8, and no name twice
		return v, nil, errors.New("its answer is not one valid JSON value, in UTF-8 and without duplicate names")
	}
	if answer.Kind() != '{' {
		return v, nil, errors.New("its answer is not a JSON object")
	}
	if depth(output) > abi.MaxDepth {
		return v, nil, fmt.Errorf("its answer is nested deeper than %d", abi.MaxDepth)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(output, &members); err != nil {
		return v, nil, errors.New("its answer is not a JSON object")
	}
	for name := range members {
		if !slices.Contains(verdictMembers, name) {
			unknown = append(unknown, name)
			delete(members, name)
		}
	}
	slices.Sort(unknown)
	known, err := json.Marshal(members)
	if err == nil {
		err = json.Unmarshal(known, &v)
	}
	if err != nil {
		return v, unknown, errors.New("a member of its answer has the wrong JSON type")
	}
	return v, unknown, checkVerdict(&v)
}

var verdictMembers = []string{"decision", "subject", "claims", "amr", "code", "detail", "type", "public", "private", "ttl", "max_attempts"}

func checkVerdict(v *abi.Verdict) error {
	switch v.Decision {
	case abi.Accept:
		return checkAccept(v)
	case abi.Challenge:
		return checkChallenge(v)
	case abi.Reject:
		if v.Code == "" {
			v.Code = abi.BadCredentials
		}
		if !slices.Contains([]string{abi.BadCredentials, abi.Locked, abi.Expired, abi.Denied}, v.Code) {
			return errors.New("its reject has an unknown code")
		}
		return nil
	}
	return errors.New(`its decision is none of "accept", "reject" and "challenge"`)
}

func checkAccept(v *abi.Verdict) error {
	if n := utf8.RuneCountInString(v.Subject); n == 0 || n > abi.MaxSubject || !printable(v.Subject) {
		return fmt.Errorf("its subject is not 1 to %d printable characters", abi.MaxSubject)
	}
	if len(v.Claims) == 0 || string(v.Claims) == "null" {
		v.Claims = json.RawMessage("{}")
	}
	if len(v.Claims) > abi.MaxClaims {
		return fmt.Errorf("its claims have %d bytes; %d are the limit", len(v.Claims), abi.MaxClaims)
	}
	var claims map[string]json.RawMessage
	if err := json.Unmarshal(v.Claims, &claims); err != nil {
		return errors.New("its claims are not a JSON object")
	}
	for _, reserved := range abi.ReservedClaims {
		if _, ok := claims[reserved]; ok {
			return fmt.Errorf("its claims name %q, which is the host's", reserved)
		}
	}
	if len(v.AMR) > 8 {
		return errors.New("its amr names more than 8 methods")
	}
	for _, method := range v.AMR {
		if method == "" || len(method) > 32 || !printable(method) {
			return errors.New("its amr holds what is not a name")
		}
	}
	return nil
}

func checkChallenge(v *abi.Verdict) error {
	if v.Type != "otp" && v.Type != "custom" {
		return errors.New(`its challenge is of no known type; "otp" and "custom" are`)
	}
	if v.TTL == 0 {
		v.TTL = abi.DefaultTTL
	}
	if v.MaxAttempts == 0 {
		v.MaxAttempts = abi.DefaultAttempts
	}
	if v.TTL < 1 || v.TTL > abi.MaxTTL {
		return fmt.Errorf("its challenge's ttl is not 1 to %d seconds", abi.MaxTTL)
	}
	if v.MaxAttempts < 1 || v.MaxAttempts > abi.MaxAttempts {
		return fmt.Errorf("its challenge's max_attempts is not 1 to %d", abi.MaxAttempts)
	}
	if len(v.Public) > abi.MaxClaims || len(v.Private) > abi.MaxClaims {
		return fmt.Errorf("its challenge's public or private part has more than %d bytes", abi.MaxClaims)
	}
	if len(v.Public) > 0 && jsontext.Value(v.Public).Kind() != '{' {
		return errors.New("its challenge's public part is not a JSON object")
	}
	return nil
}

// depth is how deep a valid JSON text is nested.
func depth(text []byte) (deepest int) {
	at, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			at++
			deepest = max(deepest, at)
		case c == '}' || c == ']':
			at--
		}
	}
	return deepest
}

func printable(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return utf8.ValidString(s)
}
