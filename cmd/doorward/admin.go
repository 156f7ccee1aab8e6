package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// admin calls a server's admin listener.
type admin struct {
	base string
	key  string
	http http.Client
}

// newAdmin finds the server and the key: DOORWARD_ADMIN_URL and
// DOORWARD_KEY_FILE, or what dev has by default.
func newAdmin() (*admin, error) {
	base := os.Getenv("DOORWARD_ADMIN_URL")
	setDefault(&base, "http://127.0.0.1:8481")
	file := os.Getenv("DOORWARD_KEY_FILE")
	setDefault(&file, filepath.Join("data", "operator.key"))
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read operator key: %w; say where it is with DOORWARD_KEY_FILE (a server writes DATA_DIR/operator.key at its first start)", err)
	}
	return &admin{
		base: strings.TrimRight(base, "/"),
		key:  firstLine(text),
		http: http.Client{Timeout: 130 * time.Second},
	}, nil
}

// answerError is a problem that the server answered with.
type answerError struct {
	Status    int    `json:"status"`
	Code      string `json:"code"`
	Title     string `json:"title"`
	Detail    string `json:"detail"`
	RequestID string `json:"request_id"`
	Errors    []struct{ Field, Message string }
}

func (e *answerError) Error() string {
	text := e.Detail
	setDefault(&text, e.Title)
	for _, f := range e.Errors {
		text += "\n  " + f.Field + " " + f.Message
	}
	if e.Code == "unauthorized" {
		text += "\n  the key in DOORWARD_KEY_FILE is not one of this server's"
	}
	return fmt.Sprintf("%s\n  (%s, request %s)", text, e.Code, e.RequestID)
}

// errReach: no server answered.
var errReach = errors.New("no server answers")

// do sends a request with a JSON body, when there is one, and decodes the
// answer into out, when that is wanted.
func (a *admin) do(ctx context.Context, method, path string, body, out any) error {
	var content []byte
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	return a.send(ctx, method, path, "application/json", content, out)
}

func (a *admin) send(ctx context.Context, method, path, contentType string, content []byte, out any) error {
	answer, err := a.open(ctx, method, path, contentType, content)
	if err != nil {
		return err
	}
	defer answer.Close()
	text, err := io.ReadAll(answer)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// open sends a request and returns the body of an answer that is no problem. The
// caller closes it.
func (a *admin) open(ctx context.Context, method, path, contentType string, content []byte) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, method, a.base+"/admin/v1"+path, bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%w; is DOORWARD_ADMIN_URL right?", err)
	}
	r.Header.Set("Authorization", "Bearer "+a.key)
	if len(content) > 0 {
		r.Header.Set("Content-Type", contentType)
	}
	answer, err := a.http.Do(r)
	if err != nil {
		var dial *net.OpError
		if errors.As(err, &dial) || errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("%w at %s: %w; is doorward running, and DOORWARD_ADMIN_URL right?", errReach, a.base, err)
		}
		return nil, err
	}
	if answer.StatusCode < 300 {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	problem := &answerError{Status: answer.StatusCode, Title: answer.Status}
	if json.Unmarshal(text, problem) != nil {
		problem.Detail = "the answer is not doorward's; is DOORWARD_ADMIN_URL right?"
	}
	return nil, problem
}

// all reads every page of a list.
func (a *admin) all(ctx context.Context, path, name string, query url.Values) ([]map[string]any, error) {
	list := []map[string]any{}
	for {
		var page map[string]json.RawMessage
		if err := a.do(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		var some []map[string]any
		var next string
		if err := errors.Join(json.Unmarshal(page[name], &some), json.Unmarshal(page["next_page_token"], &next)); err != nil {
			return nil, fmt.Errorf("decode answer: %w", err)
		}
		list = append(list, some...)
		if next == "" {
			return list, nil
		}
		query.Set("page_token", next)
	}
}

// exitOf is the exit code for a problem.
func (e *answerError) exitOf() int {
	switch e.Status {
	case http.StatusNotFound:
		return 3
	case http.StatusUnauthorized, http.StatusForbidden:
		return 4
	case http.StatusConflict:
		return 5
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return 6
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType:
		return 7
	}
	return 1
}

// outputFlag is -o: what people read, or what the API gave.
func outputFlag(cmd *cobra.Command) *string {
	return cmd.PersistentFlags().StringP("output", "o", "table", "table or json")
}

// show prints v as JSON, or as a table of some of its fields.
func show(cmd *cobra.Command, output string, v any, columns ...string) error {
	switch output {
	case "json":
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "table":
	default:
		return usage(fmt.Errorf(`-o is %q; it may be "table" or "json"`, output))
	}
	rows, ok := v.([]map[string]any)
	if !ok {
		rows = []map[string]any{v.(map[string]any)}
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, strings.ToUpper(strings.Join(columns, "\t")))
	for _, row := range rows {
		cells := make([]string, len(columns))
		for i, column := range columns {
			cells[i] = cell(row[column])
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}

// cell is one value of a table.
func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64) // a size of 3272352 is no 3.272352e+06
	case []any:
		parts := make([]string, len(v))
		for i, one := range v {
			parts[i] = cell(one)
		}
		if len(parts) == 0 {
			return "-"
		}
		return strings.Join(parts, ",")
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return string(text)
}

// exactly wants n arguments, by name, as the usage error that it is.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usage(fmt.Errorf("%s takes %s; see: %s --help", cmd.CommandPath(), strings.Join(names, " "), cmd.CommandPath()))
		}
		return nil
	}
}

// group is a noun: a command that holds verbs and is none.
func group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(fmt.Errorf("%s has no %q; see: %s --help", cmd.CommandPath(), args[0], cmd.CommandPath()))
			}
			return cmd.Help()
		},
	}
}
