package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/service/web"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/sessions/cluster"
	sessionsetcd "github.com/doorward/doorward/sessions/etcd"
	"github.com/doorward/doorward/tenants"
	tenantsetcd "github.com/doorward/doorward/tenants/etcd"
	"github.com/doorward/doorward/tenants/seal"
)

// storePrefix is where everything of ours lies in etcd.
const storePrefix = "/dw/"

// backup makes a backup of the store as a file without a name, for web.
func (n *node) backup(ctx context.Context, recipients []string) (*os.File, error) {
	to, err := age.ParseRecipients(strings.NewReader(strings.Join(recipients, "\n")))
	if err != nil {
		// The library's text may quote what it was given, which may be an identity.
		return nil, fmt.Errorf("%w: each must be an age recipient, such as age1… from age-keygen", web.ErrRecipients)
	}
	if !n.backingUp.TryLock() {
		return nil, web.ErrBusy
	}
	defer n.backingUp.Unlock()
	file, err := os.CreateTemp(n.config.DataDir, "backup-")
	if err != nil {
		return nil, fmt.Errorf("make a file for the backup: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil { // it ends with this process, however that ends
		file.Close()
		return nil, fmt.Errorf("hide the backup: %w", err)
	}
	began := time.Now()
	contents, err := backupTo(ctx, n.client, to, file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("make a backup: %w", err)
	}
	n.log.Info("backup made", "revision", contents.Revision, "keys", contents.Keys, "bytes", contents.Bytes, "took", time.Since(began))
	return file, nil
}

func backupTo(ctx context.Context, client *clientv3.Client, to []age.Recipient, w io.Writer) (cluster.Contents, error) {
	sealed, err := age.Encrypt(w, to...)
	if err != nil {
		return cluster.Contents{}, fmt.Errorf("encrypt: %w", err)
	}
	contents, err := cluster.Backup(ctx, client, storePrefix, sealed)
	if err != nil {
		return cluster.Contents{}, err
	}
	return contents, sealed.Close()
}

func backupCommand() *cobra.Command {
	var to string
	var recipients []string
	cmd := &cobra.Command{
		Use: "backup --to FILE --recipient age1…", Short: "Save everything the store holds into an encrypted file", Args: noArgs,
		Long: "Have the running server at DOORWARD_ADMIN_URL save tenants, verifiers and sessions, as they are at\n" +
			"one moment, into FILE, encrypted to the recipients (age-keygen makes them). The root keys are not in\n" +
			"it: keep a copy of the key ring file too, which the backup is of no use without.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to == "" || len(recipients) == 0 {
				return usage(errors.New("say where to, and who can open it: --to FILE --recipient age1…"))
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			a.http.Timeout = 0 // the answer may be long
			body, err := json.Marshal(map[string]any{"recipients": recipients})
			if err != nil {
				return fmt.Errorf("encode request: %w", err)
			}
			size, err := a.save(cmd.Context(), "/backup", body, to)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%d bytes in %s; keep a copy of the key ring file too\n", size, to)
			return nil
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "file that the backup is written to (required)")
	cmd.Flags().StringArrayVar(&recipients, "recipient", nil, "age recipient that can open it; may be given several times (required)")
	return cmd
}

// save posts a request and writes the answer to a file, which appears when it is
// whole and on disk.
func (a *admin) save(ctx context.Context, path string, body []byte, to string) (int64, error) {
	file, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+"-") // mode 0600
	if err != nil {
		return 0, fmt.Errorf("write backup: %w", err)
	}
	defer os.Remove(file.Name()) // gone already, when all went well
	defer file.Close()
	answer, err := a.open(ctx, http.MethodPost, path, "application/json", body)
	if err != nil {
		return 0, err
	}
	defer answer.Close()
	size, err := io.Copy(file, answer)
	if err != nil {
		return 0, fmt.Errorf("the backup did not arrive whole, and nothing was written: %w", err)
	}
	if err := file.Sync(); err != nil {
		return 0, fmt.Errorf("write backup: %w", err)
	}
	if err := os.Rename(file.Name(), to); err != nil {
		return 0, fmt.Errorf("write backup: %w", err)
	}
	return size, nil
}

func restoreCommand() *cobra.Command {
	var flags config
	var file, from, identity string
	var keep bool
	cmd := &cobra.Command{
		Use: "restore --config FILE --from FILE --identity FILE", Short: "Put a backup into a new, empty store", Args: noArgs,
		Long: "Put what `doorward backup` saved into the store of this configuration, which must be empty: a new\n" +
			"data_dir, or an etcd without doorward's keys. No server may run on it. The key ring file must be the\n" +
			"one of the servers that were backed up. Start the server afterwards.\n\n" +
			"Everybody has to sign in again: a session that was ended after the backup would be there once more.\n" +
			"--keep-sessions keeps them all the same, those that were revoked since included.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" || identity == "" {
				return usage(errors.New("say what, and what opens it: --from FILE --identity FILE"))
			}
			c, err := serveConfig(file, flags)
			if err != nil {
				return err
			}
			return restore(cmd.Context(), c, from, identity, keep, cmd.ErrOrStderr())
		},
	}
	serverFlags(cmd, &flags)
	cmd.Flags().StringVar(&file, "config", "", "YAML configuration file of the server")
	cmd.Flags().StringVar(&from, "from", "", "file that holds the backup (required)")
	cmd.Flags().StringVar(&identity, "identity", "", "file with the age identity that opens it (required)")
	cmd.Flags().BoolVar(&keep, "keep-sessions", false, "keep sessions, also those that were revoked after the backup")
	return cmd
}

// restore puts a backup into the empty store of c.
func restore(ctx context.Context, c config, from, identity string, keep bool, errs io.Writer) error {
	level, err := c.logLevel()
	if err != nil {
		return err
	}
	ring, err := seal.LoadRing(c.Keyring.File)
	if err != nil {
		return fmt.Errorf("%w; a backup needs the key ring of the servers that it was made of: put that file there", err)
	}
	open, err := backupFile(from, identity)
	if err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	client, _, closeStore, err := openStore(starting, c, newLog(errs, level, c.Log.Format))
	if err != nil {
		return err
	}
	defer closeStore()
	r := cluster.Restoration{Prefix: storePrefix}
	r.Skip = func(key string) bool {
		return tenantsetcd.IsKey(key) || !keep && sessionsetcd.IsSession(key)
	}
	if keep {
		r.Aged = func(kv *mvccpb.KeyValue) (int64, bool, bool) { return sessionsetcd.Age(kv) }
	}
	contents, err := cluster.Restore(ctx, client, r, open, func(ctx context.Context) error {
		source := tenantsetcd.New(client, ring, tenantsetcd.Config{})
		if err := opens(ctx, source); err != nil {
			return fmt.Errorf("key ring %s does not open the backup: %w; put the file of the servers that it was made of there and restore again", c.Keyring.File, err)
		}
		if keep {
			return nil
		}
		_, err := sessionsetcd.New(client, source.Keys, sessionsetcd.Config{}).BumpEpoch(ctx, "", sessions.Filter{})
		return err
	})
	switch {
	case errors.Is(err, cluster.ErrNotEmpty):
		return fmt.Errorf("%w; a backup goes into a new data_dir, or an etcd that doorward has not used", err)
	case err != nil:
		return err
	}
	fmt.Fprintf(errs, "restored what was at revision %d on %s: start the server now\n", contents.Revision, contents.MadeAt.Format(time.RFC3339))
	if keep {
		fmt.Fprintln(errs, "sessions were kept: those that were revoked after that moment are back")
	}
	return nil
}

// opens tries every tenant's keys.
func opens(ctx context.Context, source *tenantsetcd.Source) error {
	all, err := source.Load(ctx)
	if err != nil {
		return fmt.Errorf("load tenants: %w", err)
	}
	for _, t := range all.Tenants {
		if _, err := source.Keys(ctx, t.UUID, 0); err != nil && !errors.Is(err, tenants.ErrNotFound) {
			return err
		}
	}
	return nil
}

// backupFile gives a backup decrypted, as often as it is opened.
func backupFile(from, identity string) (func() (io.ReadCloser, error), error) {
	text, err := os.Open(identity)
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	defer text.Close()
	identities, err := age.ParseIdentities(text)
	if err != nil {
		return nil, fmt.Errorf("%s holds no age identity, as age-keygen writes them", identity) // the library's text may quote it
	}
	return func() (io.ReadCloser, error) {
		file, err := os.Open(from)
		if err != nil {
			return nil, fmt.Errorf("read backup: %w", err)
		}
		plain, err := age.Decrypt(file, identities...)
		if err != nil {
			file.Close()
			if errors.As(err, new(*age.NoIdentityMatchError)) {
				return nil, fmt.Errorf("%s is not encrypted to the identity in %s; use that of one of the recipients", from, identity)
			}
			return nil, fmt.Errorf("%w: %s: %w", cluster.ErrBackup, from, err)
		}
		return struct {
			io.Reader
			io.Closer
		}{plain, file}, nil
	}, nil
}
