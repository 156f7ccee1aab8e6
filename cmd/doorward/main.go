package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/plugins/sandbox"
)

func main() {
	// A sandbox worker is this program again. It branches off before anything
	// else, so that a worker never has a server's flags, files or signals.
	if len(os.Args) > 1 && (os.Args[1] == "sandbox" || os.Args[1] == freshSandbox) {
		if os.Args[1] == freshSandbox {
			sandbox.NoImages()
		}
		os.Exit(sandbox.Main(context.Background(), os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintln(errs, "error:", err)
	}
	return exitCode(err)
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "doorward",
		Short: "Session authentication for many tenants, each with its own verifier",
		Long: "Doorward signs users in and says whose session it is. Tenants bring WebAssembly\n" +
			"verifiers that decide whether a credential is good; sessions live in etcd.\n\n" +
			"Try it:  doorward dev",
		// Cobra's own refusal of an unknown command is no usage error of ours.
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.AddCommand(devCommand(), serveCommand(), tenantCommand(), verifierCommand(), sessionCommand(), keyringCommand(), clusterCommand(), backupCommand(), restoreCommand(), versionCommand())
	return root
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(err error) error { return usageError{err} }

// errUnsafe: the configuration may not be served; the text names every item.
var errUnsafe = errors.New("unsafe configuration")

// exitCode is the published exit code of an error.
func exitCode(err error) int {
	var answer *answerError
	switch {
	case err == nil:
		return 0
	case errors.As(err, new(usageError)):
		return 2
	case errors.Is(err, errUnsafe):
		return 78
	case errors.Is(err, errReach):
		return 6
	case errors.As(err, &answer):
		return answer.exitOf()
	}
	return 1
}

// newLog writes to w: one JSON object a line, or plain text for people.
func newLog(w io.Writer, level slog.Level, format string) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
