package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func sessionCommand() *cobra.Command {
	cmd := group("session", "See who is signed in, and end sessions")
	output := outputFlag(cmd)
	tenant := cmd.PersistentFlags().StringP("tenant", "t", "", "tenant id (required)")
	completed(cmd)
	path := func() (string, error) {
		if *tenant == "" {
			return "", usage(errors.New("say which tenant: --tenant ID"))
		}
		return tenantPath(*tenant) + "/sessions", nil
	}
	cmd.AddCommand(sessionList(output, path), sessionRevoke(output, path, tenant))
	return cmd
}

func sessionList(output *string, path func() (string, error)) *cobra.Command {
	var subject string
	cmd := &cobra.Command{
		Use: "list", Short: "List sessions", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := path()
			if err != nil {
				return err
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			query := url.Values{}
			if subject != "" {
				query.Set("subject", subject)
			}
			list, err := a.all(cmd.Context(), p, "sessions", query)
			if err != nil {
				return err
			}
			return show(cmd, *output, list, "id", "subject", "created_at", "last_seen_at", "expires_at")
		},
	}
	cmd.Flags().StringVar(&subject, "subject", "", "of this subject only")
	return cmd
}

func sessionRevoke(output *string, path func() (string, error), tenant *string) *cobra.Command {
	var subject, verifier string
	var all, everybody bool
	cmd := &cobra.Command{
		Use: "revoke SES_ID | --subject S | --verifier DIGEST | --all | --everybody", Short: "End one session, or many",
		RunE: func(cmd *cobra.Command, args []string) error {
			if everybody {
				if len(args) > 0 || subject != "" || verifier != "" || all || *tenant != "" {
					return usage(errors.New("--everybody ends the sessions of all tenants and goes with nothing else"))
				}
				a, err := newAdmin()
				if err != nil {
					return err
				}
				return revokeMany(cmd, *output, a, "/sessions", map[string]any{"all": true})
			}
			p, err := path()
			if err != nil {
				return err
			}
			chosen := len(args)
			body := map[string]any{}
			for name, value := range map[string]string{"subject": subject, "verifier": verifier} {
				if value != "" {
					body[name] = value
					chosen++
				}
			}
			if all {
				body["all"] = true
				chosen++
			}
			if chosen != 1 {
				return usage(errors.New("session revoke takes one of SES_ID, --subject, --verifier and --all"))
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return a.do(cmd.Context(), http.MethodDelete, p+"/"+url.PathEscape(args[0]), nil, nil)
			}
			return revokeMany(cmd, *output, a, p, body)
		},
	}
	cmd.Flags().StringVar(&subject, "subject", "", "all sessions of this subject")
	cmd.Flags().StringVar(&verifier, "verifier", "", "all sessions that the verifier with this digest made")
	cmd.Flags().BoolVar(&all, "all", false, "all sessions of the tenant")
	cmd.Flags().BoolVar(&everybody, "everybody", false, "all sessions of all tenants")
	return cmd
}

// revokeMany calls again until there is no more.
func revokeMany(cmd *cobra.Command, output string, a *admin, path string, body map[string]any) error {
	total := 0
	for {
		var done struct {
			Processed int  `json:"processed"`
			More      bool `json:"more"`
		}
		if err := a.do(cmd.Context(), http.MethodPost, path+"/revoke", body, &done); err != nil {
			return fmt.Errorf("after %d sessions: %w", total, err)
		}
		total += done.Processed
		if !done.More {
			return show(cmd, output, map[string]any{"processed": total, "more": false}, "processed")
		}
	}
}
