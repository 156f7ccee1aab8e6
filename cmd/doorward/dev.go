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
	"go.etcd.io/etcd/client/v3/concurrency"
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
			if err := c.fromEnv(os.LookupEnv); err != nil {
				return err
			}
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
	password, err := n.demo(ctx, out)
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

// demo makes what is missing of the demo tenant, and returns the password of
// its user if it has just been made.
func (n *node) demo(ctx context.Context, out io.Writer) (string, error) {
	if n.config.external() || n.config.Cluster.Listen != "" {
		// Two nodes that start together would each make a user, and the password
		// that one of them prints would be wrong.
		session, err := concurrency.NewSession(n.client, concurrency.WithContext(ctx), concurrency.WithTTL(10))
		if err != nil {
			return "", err
		}
		defer session.Close() // gives the lock free; after a crash that takes 10 s
		if err := concurrency.NewMutex(session, "/dw/dev/demo").Lock(ctx); err != nil {
			return "", err
		}
	}
	t, err := n.demoTenant(ctx)
	if err != nil {
		return "", err
	}
	return n.demoUser(ctx, t, out)
}

func (n *node) demoTenant(ctx context.Context) (tenants.Tenant, error) {
	if t, ok := n.registry.ByID(demoTenant); ok {
		return t, nil
	}
	made, err := n.registry.New(tenants.Tenant{ID: demoTenant, Name: "Demo"})
	if err != nil {
		return tenants.Tenant{}, err
	}
	t, err := n.service.CreateTenant(ctx, made)
	if !errors.Is(err, tenants.ErrExists) {
		return t, err
	}
	// Another node has just made it, or it is being deleted: look at what is
	// stored, where the registry comes to by itself.
	stored, err := n.source.Load(ctx)
	if err != nil {
		return tenants.Tenant{}, err
	}
	for _, t := range stored.Tenants {
		if t.ID == demoTenant && t.State != tenants.Deleting {
			return t, n.registry.WaitFor(ctx, t.Revision)
		}
	}
	return tenants.Tenant{}, tenants.ErrExists
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
