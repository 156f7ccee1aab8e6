package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

var tenantColumns = []string{"id", "name", "state", "hosts", "created_at"}

func tenantCommand() *cobra.Command {
	cmd := group("tenant", "Register tenants, and give them configuration and secrets")
	output := outputFlag(cmd)
	cmd.AddCommand(
		tenantCreate(output), tenantList(output), tenantDelete(),
		tenantOne("show", "Show a tenant", http.MethodGet, "", output),
		tenantOne("suspend", "Stop a tenant's logins and end its sessions", http.MethodPost, "/suspend", output),
		tenantOne("resume", "Let a suspended tenant sign people in again", http.MethodPost, "/resume", output),
		tenantOne("rotate-keys", "Encrypt what the tenant has with a new key from now on", http.MethodPost, "/rotate-keys", output),
		tenantConfig(), tenantSecret(),
	)
	return cmd
}

func tenantPath(id string) string { return "/tenants/" + url.PathEscape(id) }

func tenantCreate(output *string) *cobra.Command {
	var name, idle, absolute, remember, file string
	var hosts, apps []string
	var perSubject int
	cmd := &cobra.Command{
		Use: "create ID", Short: "Register a tenant", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{}
			if file != "" {
				text, err := readInput(cmd, file)
				if err != nil {
					return err
				}
				if err := json.Unmarshal(text, &body); err != nil {
					return usage(fmt.Errorf("%s is not a JSON object: %w", file, err))
				}
			}
			body["id"] = args[0]
			policy := map[string]any{}
			for _, f := range []struct {
				name  string
				value any
				into  map[string]any
			}{{"name", name, body}, {"idle", idle, policy}, {"absolute", absolute, policy}, {"remember", remember, policy}, {"max-per-subject", perSubject, policy}} {
				if cmd.Flags().Changed(f.name) {
					f.into[strings.ReplaceAll(f.name, "-", "_")] = f.value
				}
			}
			if len(policy) > 0 {
				body["session"] = policy
			}
			if len(hosts) > 0 {
				body["hosts"] = hosts
			}
			if len(apps) > 0 {
				var list []any
				for _, app := range apps {
					id, origin, ok := strings.Cut(app, "=")
					if !ok {
						return usage(fmt.Errorf("--app is %q; it takes ID=ORIGIN, such as shop=https://shop.example", app))
					}
					list = append(list, map[string]any{"id": id, "origin": origin})
				}
				body["apps"] = list
			}
			return call(cmd, *output, http.MethodPost, "/tenants", body, tenantColumns)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name that people see (default the ID)")
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "host of its own; may be repeated")
	cmd.Flags().StringArrayVar(&apps, "app", nil, "application as ID=ORIGIN; may be repeated")
	cmd.Flags().StringVar(&idle, "idle", "", "how long a session may be idle (default 30m)")
	cmd.Flags().StringVar(&absolute, "absolute", "", "how long it lives (default 12h)")
	cmd.Flags().StringVar(&remember, "remember", "", "how long a remembered one lives (default 720h)")
	cmd.Flags().IntVar(&perSubject, "max-per-subject", 0, "sessions of one subject at once (default 10)")
	cmd.Flags().StringVar(&file, "file", "", "the tenant as JSON; flags go over it; - is standard input")
	return cmd
}

// call makes one request and shows what it answers.
func call(cmd *cobra.Command, output, method, path string, body any, columns []string) error {
	a, err := newAdmin()
	if err != nil {
		return err
	}
	var out map[string]any
	if err := a.do(cmd.Context(), method, path, body, &out); err != nil {
		return err
	}
	return show(cmd, output, out, columns...)
}

func tenantList(output *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tenants", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := newAdmin()
			if err != nil {
				return err
			}
			list, err := a.all(cmd.Context(), "/tenants", "tenants", url.Values{})
			if err != nil {
				return err
			}
			return show(cmd, *output, list, tenantColumns...)
		},
	}
}

func tenantOne(verb, short, method, suffix string, output *string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID", Short: short, Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, *output, method, tenantPath(args[0])+suffix, nil, tenantColumns)
		},
	}
}

func tenantDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete ID", Short: "Delete a tenant with its sessions, verifiers and configuration", Args: exactly("ID"),
		ValidArgsFunction: completeTenant,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				if err := confirm(cmd, args[0]); err != nil {
					return err
				}
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			return a.do(cmd.Context(), http.MethodDelete, tenantPath(args[0]), nil, nil)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// confirm has a person type what is to be deleted.
func confirm(cmd *cobra.Command, id string) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usage(errors.New("there is nobody to ask; delete with --yes"))
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "This deletes the tenant and everything of it. Type %s to go on: ", id)
	var typed string
	fmt.Fscanln(in, &typed) // an empty line is simply not the id
	if typed != id {
		return errors.New("not deleted")
	}
	return nil
}

func tenantConfig() *cobra.Command {
	cmd := group("config", "What a tenant's verifier reads with config_get")
	cmd.AddCommand(&cobra.Command{
		Use: "get ID", Short: "Print the configuration as JSON", Args: exactly("ID"),
		ValidArgsFunction: completeTenant,
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, "json", http.MethodGet, tenantPath(args[0])+"/config", nil, nil)
		},
	})
	var replace bool
	set := &cobra.Command{
		Use: "set ID KEY=VALUE | KEY=@FILE …", Short: "Set keys; the others stay as they are",
		ValidArgsFunction: completeTenant,
		Long: "Set keys of a tenant's configuration. A value that is JSON is taken as JSON, any other as text;\n" +
			"KEY=@FILE takes a file's content, as text.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(errors.New("tenant config set takes ID and KEY=VALUE …"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := newAdmin()
			if err != nil {
				return err
			}
			path, config := tenantPath(args[0])+"/config", map[string]any{}
			if !replace {
				if err := a.do(cmd.Context(), http.MethodGet, path, nil, &config); err != nil {
					return err
				}
			}
			for _, pair := range args[1:] {
				key, value, err := configPair(cmd, pair)
				if err != nil {
					return err
				}
				config[key] = value
			}
			return a.do(cmd.Context(), http.MethodPut, path, config, nil)
		},
	}
	set.Flags().BoolVar(&replace, "replace", false, "drop the keys that are not given")
	cmd.AddCommand(set)
	return cmd
}

func configPair(cmd *cobra.Command, pair string) (key string, value any, err error) {
	key, text, ok := strings.Cut(pair, "=")
	if !ok || key == "" {
		return "", nil, usage(fmt.Errorf("%q is not KEY=VALUE", pair))
	}
	if file, isFile := strings.CutPrefix(text, "@"); isFile {
		content, err := readInput(cmd, file)
		return key, string(content), err
	}
	if json.Unmarshal([]byte(text), &value) == nil {
		return key, value, nil
	}
	return key, text, nil
}

// readInput reads a file, "-" being standard input.
func readInput(cmd *cobra.Command, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(cmd.InOrStdin())
	}
	return os.ReadFile(file)
}

func tenantSecret() *cobra.Command {
	cmd := group("secret", "What a tenant's verifier reads with secret_get")
	var file string
	set := &cobra.Command{
		Use: "set ID NAME", Short: "Make or replace a secret; its value comes from standard input or a file", Args: exactly("ID", "NAME"),
		ValidArgsFunction: completeTenant,
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := secretInput(cmd, file)
			if err != nil {
				return err
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			return a.do(cmd.Context(), http.MethodPut, tenantPath(args[0])+"/secrets/"+url.PathEscape(args[1]), map[string]any{"value": value}, nil)
		},
	}
	set.Flags().StringVar(&file, "from-file", "-", "file that holds the value")
	cmd.AddCommand(set, &cobra.Command{
		Use: "list ID", Short: "List the names", Args: exactly("ID"),
		ValidArgsFunction: completeTenant,
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd, "json", http.MethodGet, tenantPath(args[0])+"/secrets", nil, nil)
		},
	}, &cobra.Command{
		Use: "delete ID NAME", Short: "Remove a secret", Args: exactly("ID", "NAME"),
		ValidArgsFunction: completeTenant,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := newAdmin()
			if err != nil {
				return err
			}
			return a.do(cmd.Context(), http.MethodDelete, tenantPath(args[0])+"/secrets/"+url.PathEscape(args[1]), nil, nil)
		},
	})
	return cmd
}

// secretInput reads a value that must not be in a flag: other users of the
// machine see those. A line break at its end is the editor's.
func secretInput(cmd *cobra.Command, file string) (string, error) {
	if in, ok := cmd.InOrStdin().(*os.File); file == "-" && ok && term.IsTerminal(int(in.Fd())) {
		fmt.Fprint(cmd.ErrOrStderr(), "Value (not shown): ")
		text, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(cmd.ErrOrStderr())
		return string(text), err
	}
	text, err := readInput(cmd, file)
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), err
}
