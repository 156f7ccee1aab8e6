package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/bcrypt"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/tenants"
)

func devCommand() *cobra.Command {
	var flags config
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run one node on this machine, with a demo tenant to sign in to",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := config{dev: true}
			c.fromEnv(os.LookupEnv)
			c.lay(flags)
			c.complete()
			if err := c.check(); err != nil {
				return err
			}
			return run(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	serverFlags(cmd, &flags)
	cmd.Flags().Lookup("data-dir").Usage += ` (default "data")`
	return cmd
}

// demoTenant is what dev serves when nothing else is there.
const demoTenant = "demo"

// welcome makes the demo tenant if it is not complete and says on out where to
// go. The user's password is made here, printed once and stored as a hash, so
// each step comes in an order that a crash may cut: the password is printed
// only when everything it needs is there, and made anew as long as it is not.
func (n *node) welcome(ctx context.Context, out io.Writer) error {
	t, ok := n.registry.ByID(demoTenant)
	if !ok {
		made, err := n.registry.New(tenants.Tenant{ID: demoTenant, Name: "Demo"})
		if err != nil {
			return err
		}
		if t, err = n.service.CreateTenant(ctx, made); err != nil {
			return err
		}
	}
	password, err := n.demoUser(ctx, t, out)
	if err != nil {
		return fmt.Errorf("demo tenant: %w", err)
	}
	base := n.config.PublicURL + "/t/" + demoTenant
	fmt.Fprintf(out, "\n  Sign in      %s/login\n", base)
	if password != "" {
		fmt.Fprintf(out, "               user demo, password %s (shown this once)\n", password)
	}
	fmt.Fprintf(out, "  API          %s/v1\n", base)
	fmt.Fprintf(out, "  Admin        http://%s/admin/v1 with the key in %s\n\n", n.config.AdminListen, n.keyFile())
	return nil
}

// demoUser gives the demo tenant its verifier and its user, and returns the
// password if it has just been made.
func (n *node) demoUser(ctx context.Context, t tenants.Tenant, out io.Writer) (string, error) {
	_, err := n.catalog.Active(ctx, t.UUID)
	if err == nil {
		if config, err := n.source.Config(ctx, t.UUID); err != nil || string(config) != "{}" {
			return "", err
		}
	} else if !errors.Is(err, plugins.ErrNotFound) {
		return "", err
	} else {
		module, err := readyMade(ctx, "users", out)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(out, "First start: compiling the demo verifier, some seconds …")
		v, err := n.catalog.Upload(ctx, t.UUID, module, nil)
		if err != nil {
			return "", err
		}
		if _, err := n.catalog.Activate(ctx, t.UUID, v.Number, false); err != nil {
			return "", err
		}
	}
	password := rand.Text()[:16]
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return "", err
	}
	config, err := json.Marshal(map[string]any{"users": []any{
		map[string]any{"username": "demo", "password_hash": string(hash), "claims": map[string]any{"name": "Demo User"}},
	}})
	if err != nil {
		return "", err
	}
	return password, n.source.PutConfig(ctx, t.UUID, config)
}
