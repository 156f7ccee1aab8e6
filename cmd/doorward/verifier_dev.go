package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/plugins/sandbox"
)

// watchTime is how often files are looked at. An editor writes several for one
// change; the build begins when a look finds nothing new.
const watchTime = 250 * time.Millisecond

func verifierDev(path func(string) (string, error)) *cobra.Command {
	var approve bool
	cmd := &cobra.Command{
		Use: "dev [DIR]", Short: "Build, test and activate a verifier whenever its source changes", Args: atMostOne,
		Long: "Watch a verifier's source until it is interrupted. At the start and after each change: build it, run its\n" +
			"vectors, push it to the tenant and let it decide logins. What fails is said, and the version before\n" +
			"goes on deciding. Vectors of vectors.json that fail are shown and stop nothing; those of the manifest\n" +
			"stop the activation, as they do on every server.",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := path("")
			if err != nil {
				return err
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			source, err := openProject(dir, "")
			if err != nil {
				return err
			}
			return inSandbox(cmd.Context(), "sandbox", func(pool *sandbox.Pool) error {
				w := watcher{cmd: cmd, project: source, pool: pool, admin: a, path: p, approve: approve}
				return w.run(cmd.Context())
			})
		},
	}
	cmd.Flags().BoolVar(&approve, "approve-grants", false, "accept grants that the active version does not have")
	return cmd
}

// watcher is one verifier that is being written.
type watcher struct {
	cmd     *cobra.Command
	project project
	pool    *sandbox.Pool
	admin   *admin
	path    string // of the tenant's verifiers
	approve bool
	pushed  string // digest of what was pushed last
}

// run turns until the command is interrupted, which is no error.
func (w *watcher) run(ctx context.Context) error {
	var last map[string]time.Time
	done := false
	look := time.NewTicker(watchTime)
	defer look.Stop()
	for {
		files, err := w.files()
		if err != nil {
			return err
		}
		switch {
		case !maps.Equal(files, last):
			last, done = files, false
		case !done:
			done = true
			if err := w.turn(ctx); err != nil && ctx.Err() == nil {
				fmt.Fprintln(w.cmd.ErrOrStderr(), "error:", err)
			}
			fmt.Fprintln(w.cmd.OutOrStdout(), "watching", w.project.dir)
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// files are the sources and the vectors, with when they were changed.
func (w *watcher) files() (map[string]time.Time, error) {
	files, err := w.project.sources()
	if err != nil {
		return nil, err
	}
	vectors, err := subject{dir: w.project.dir}.vectorFiles()
	if err != nil {
		return nil, err
	}
	for _, file := range vectors {
		if info, err := os.Stat(file); err == nil {
			files[file] = info.ModTime()
		}
	}
	return files, nil
}

// turn is what one change brings.
func (w *watcher) turn(ctx context.Context) error {
	stale, err := w.project.stale()
	if err != nil {
		return err
	}
	file := filepath.Join(w.project.dir, moduleFile)
	if stale {
		done := during(w.cmd, "building "+file)
		_, err := w.project.build(ctx)
		done()
		if err != nil {
			return err
		}
	}
	s, err := readSubject(file)
	if err != nil {
		return err
	}
	e, err := s.examine()
	if err != nil {
		return err
	}
	if err := w.test(ctx, s, e); err != nil {
		fmt.Fprintln(w.cmd.ErrOrStderr(), "error:", err)
	}
	if e.Version.Digest == w.pushed {
		return nil // only vectors have changed
	}
	return w.push(ctx, s, e)
}

func (w *watcher) test(ctx context.Context, s subject, e plugins.Examination) error {
	suites, err := suitesOf(s, e)
	if err != nil {
		return err
	}
	done := during(w.cmd, "compiling "+s.name)
	r, err := plugins.Rehearse(ctx, w.pool, e)
	done()
	if err != nil {
		return withHint(err)
	}
	_, err = playAll(ctx, r, suites, regexp.MustCompile(""), reporter(w.cmd, "table", e.Version.Limits))
	return err
}

// push uploads a module and lets it decide.
func (w *watcher) push(ctx context.Context, s subject, e plugins.Examination) error {
	contentType, body, err := moduleBody(s.module, s.manifest)
	if err != nil {
		return err
	}
	done := during(w.cmd, "the server compiles "+s.name)
	defer done()
	var v plugins.Version
	if err := w.admin.send(ctx, http.MethodPost, w.path, contentType, body, &v); err != nil {
		return refused(err)
	}
	activate := fmt.Sprintf("%s/%d/activate", w.path, v.Number)
	if err := w.admin.do(ctx, http.MethodPost, activate, map[string]any{"approve_grants": w.approve}, nil); err != nil {
		var answer *answerError
		if errors.As(err, &answer) && v.GrantsDiff != nil && len(v.GrantsDiff.Added) > 0 {
			return fmt.Errorf("version %d is staged, but not active: %w\n  hint: start verifier dev with --approve-grants, or activate it once by hand", v.Number, err)
		}
		return fmt.Errorf("version %d is staged, but not active: %w", v.Number, err)
	}
	w.pushed = e.Version.Digest
	fmt.Fprintf(w.cmd.OutOrStdout(), "version %d is active\n", v.Number)
	return nil
}
