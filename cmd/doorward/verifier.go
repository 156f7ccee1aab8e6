package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
)

var versionColumns = []string{"version", "state", "name", "size", "digest", "created_at", "node"}

// activeColumns are those of a version that decides from now on.
var activeColumns = append(slices.Clone(versionColumns), "nodes_pending")

func verifierCommand() *cobra.Command {
	cmd := group("verifier", "Upload verifiers and choose which one decides")
	output := outputFlag(cmd)
	tenant := cmd.PersistentFlags().StringP("tenant", "t", "", "tenant id, for what asks a server")
	path := func(suffix string) (string, error) {
		if *tenant == "" {
			return "", usage(errors.New("say which tenant: --tenant ID"))
		}
		return tenantPath(*tenant) + "/verifiers" + suffix, nil
	}
	cmd.PersistentFlags().Bool("verbose", false, "say what takes long, also where nobody sits at a terminal")
	completed(cmd)
	cmd.AddCommand(verifierNew(), verifierBuild(), verifierCheck(output), verifierTest(output), verifierBench(output), verifierDev(path), verifierDiff(output, path))
	cmd.AddCommand(verifierPush(output, path), verifierActivate(output, path), verifierTry(output, path), verifierLogs(output, path))
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List versions", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := path("")
			if err != nil {
				return err
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			list, err := a.all(cmd.Context(), p, "verifiers", url.Values{})
			if err != nil {
				return err
			}
			return show(cmd, *output, list, versionColumns...)
		},
	}, &cobra.Command{
		Use: "rollback", Short: "Go back to the version that was active before", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := path("/rollback")
			if err != nil {
				return err
			}
			return call(cmd, *output, http.MethodPost, p, nil, activeColumns)
		},
	}, &cobra.Command{
		Use: "delete VERSION", Short: "Delete a version that is not active", Args: exactly("VERSION"),
		ValidArgsFunction: completeVersions(path),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := path("/" + url.PathEscape(args[0]))
			if err != nil {
				return err
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			return a.do(cmd.Context(), http.MethodDelete, p, nil, nil)
		},
	})
	return cmd
}

func verifierPush(output *string, path func(string) (string, error)) *cobra.Command {
	var activate, approve bool
	var manifest string
	cmd := &cobra.Command{
		Use: "push [FILE.wasm|DIR]", Short: "Upload a module; it is compiled and staged", Args: atMostOne,
		Long: "Upload a module: FILE.wasm, or that of the project in DIR or in this directory, which is built and\n" +
			"checked first if its source is newer.",
		ValidArgsFunction: completeSubject,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := path("")
			if err != nil {
				return err
			}
			contentType, body, err := uploadOf(cmd, args, manifest)
			if err != nil {
				return err
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			done := during(cmd, "the server compiles it")
			defer done()
			var v map[string]any
			if err := a.send(cmd.Context(), http.MethodPost, p, contentType, body, &v); err != nil {
				return refused(err)
			}
			for _, warning := range v["warnings"].([]any) {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", warning)
			}
			tellGrants(cmd.ErrOrStderr(), v)
			if activate {
				number := fmt.Sprint(v["version"])
				if err := a.do(cmd.Context(), http.MethodPost, p+"/"+number+"/activate", map[string]any{"approve_grants": approve}, &v); err != nil {
					return fmt.Errorf("version %s is staged, but not active: %w", number, err)
				}
				return show(cmd, *output, v, activeColumns...)
			}
			return show(cmd, *output, v, versionColumns...)
		},
	}
	cmd.Flags().BoolVar(&activate, "activate", false, "let it decide logins at once")
	cmd.Flags().BoolVar(&approve, "approve-grants", false, "with --activate: accept grants that the active version does not have")
	cmd.Flags().StringVar(&manifest, "manifest", "", "manifest file, for a module that has none inside")
	return cmd
}

// refused adds to a server's refusal of an upload what an author can do about it.
func refused(err error) error {
	var answer *answerError
	if errors.As(err, &answer) && answer.Status == http.StatusUnprocessableEntity {
		if hint := plugins.Hint(fmt.Errorf("%w: %s", plugins.ErrInvalid, answer.Detail)); hint != "" {
			return fmt.Errorf("%w\n  hint: %s", err, hint)
		}
	}
	return err
}

// tellGrants says what an uploaded version is granted that the active one is not,
// before its activation asks for approval.
func tellGrants(w io.Writer, v map[string]any) {
	diff, _ := v["grants_diff"].(map[string]any) // not there: nothing is active
	for _, line := range listOf(diff["added"]) {
		fmt.Fprintf(w, "granted, and not to version %v, which is active: %v\n", diff["against"], line)
	}
	for _, line := range listOf(diff["removed"]) {
		fmt.Fprintf(w, "granted to version %v, which is active, and not to this: %v\n", diff["against"], line)
	}
}

func listOf(v any) []any {
	list, _ := v.([]any)
	return list
}

// uploadOf is what a push sends. A project's module is examined first: what a
// server would refuse is told here with a hint. A file is sent as it is, with a
// manifest only where one is named.
func uploadOf(cmd *cobra.Command, args []string, manifest string) (contentType string, body []byte, err error) {
	if len(args) > 0 {
		if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
			module, err := os.ReadFile(args[0])
			if err != nil {
				return "", nil, err
			}
			var text []byte
			if manifest != "" {
				if text, err = os.ReadFile(manifest); err != nil {
					return "", nil, err
				}
			}
			return moduleBody(module, text)
		}
	}
	if manifest != "" {
		return "", nil, usage(errors.New("--manifest goes with FILE.wasm; a project has its " + manifestFile))
	}
	s, err := subjectOf(cmd, args)
	if err != nil {
		return "", nil, err
	}
	if _, err := s.examine(); err != nil {
		return "", nil, err
	}
	return moduleBody(s.module, s.manifest)
}

// moduleBody is an upload: the module as it is, or with its manifest as parts.
func moduleBody(module, manifest []byte) (contentType string, body []byte, err error) {
	if manifest == nil {
		return "application/wasm", module, nil
	}
	var out bytes.Buffer
	parts := multipart.NewWriter(&out)
	for _, p := range []struct {
		name    string
		content []byte
	}{{"module", module}, {"manifest", manifest}} {
		w, err := parts.CreateFormField(p.name)
		if err != nil {
			return "", nil, err
		}
		w.Write(p.content) // a buffer takes every write
	}
	if err := parts.Close(); err != nil {
		return "", nil, err
	}
	return parts.FormDataContentType(), out.Bytes(), nil
}

func verifierActivate(output *string, path func(string) (string, error)) *cobra.Command {
	var approve bool
	cmd := &cobra.Command{
		Use: "activate VERSION", Short: "Let a version decide logins", Args: exactly("VERSION"),
		ValidArgsFunction: completeVersions(path),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := path("/" + url.PathEscape(args[0]) + "/activate")
			if err != nil {
				return err
			}
			return call(cmd, *output, http.MethodPost, p, map[string]any{"approve_grants": approve}, activeColumns)
		},
	}
	cmd.Flags().BoolVar(&approve, "approve-grants", false, "accept grants that the active version does not have")
	return cmd
}

// tellTry prints what came of a try: the verdict, or why there is none.
func tellTry(w io.Writer, t plugins.Trace, limits abi.Limits) error {
	if t.Verdict == nil {
		fmt.Fprintf(w, "no verdict: %s\n", t.Error)
		tellTrace(w, t, nil, plugins.Advice(t), limits)
		return nil
	}
	verdict, err := json.Marshal(t.Verdict)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s (%.1f ms): %s\n", t.Decision, t.DurationMS, verdict)
	tellTrace(w, t, nil, "", limits)
	return nil
}

func verifierTry(output *string, path func(string) (string, error)) *cobra.Command {
	var file, method string
	cmd := &cobra.Command{
		Use: "try VERSION [FIELD=VALUE …]", Short: "Run a version on a made-up login that signs nobody in",
		ValidArgsFunction: completeVersions(path),
		Long:              "Run a version on a made-up login. Fields that nobody may see go into a JSON file:\n--credential-file FILE, or - for standard input. It shows the verdict, fuel and memory, the\nlast granted functions that it called, and what it wrote; -o json shows all of them.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 {
				return usage(errors.New("verifier try takes VERSION [FIELD=VALUE …]"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := path("/" + url.PathEscape(args[0]) + "/try")
			if err != nil {
				return err
			}
			credential := map[string]any{}
			if file != "" {
				text, err := readInput(cmd, file)
				if err != nil {
					return err
				}
				if err := json.Unmarshal(text, &credential); err != nil {
					return usage(fmt.Errorf("%s is not a JSON object: %w", file, err))
				}
			}
			for _, pair := range args[1:] {
				name, value, ok := strings.Cut(pair, "=")
				if !ok {
					return usage(fmt.Errorf("%q is not FIELD=VALUE", pair))
				}
				credential[name] = value
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			body := map[string]any{"method": method, "credential": credential}
			if *output != "table" {
				var v any
				if err := a.do(cmd.Context(), http.MethodPost, p, body, &v); err != nil {
					return err
				}
				return show(cmd, *output, v)
			}
			var v plugins.Version
			var trace plugins.Trace
			if err := a.do(cmd.Context(), http.MethodGet, strings.TrimSuffix(p, "/try"), nil, &v); err != nil {
				return err
			}
			if err := a.do(cmd.Context(), http.MethodPost, p, body, &trace); err != nil {
				return err
			}
			return tellTry(cmd.OutOrStdout(), trace, v.Limits)
		},
	}
	cmd.Flags().StringVar(&file, "credential-file", "", "the credential as a JSON object")
	cmd.Flags().StringVar(&method, "method", "password", "how the made-up user signs in")
	return cmd
}
