package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first Ctrl-C ends the run and prints what was measured; the second,
	// given back to the system, ends the program.
	context.AfterFunc(ctx, stop)
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
		Use:   "doorload",
		Short: "Put an open-loop load on a door and print percentiles and ratios",
		Long: "doorload sends requests by a schedule that does not wait for answers, and counts\n" +
			"each latency from the moment the request was due. It measures against a baseline\n" +
			"in the same run, because figures of two runs on a shared machine do not compare.\n\n" +
			"Try it:  doorload validate --username demo --password-file pw --baseline built-in \\\n" +
			"           http://127.0.0.1:8480/t/demo\n\n" +
			"Exit codes: 0 measured, 1 error or a threshold was missed, 2 usage,\n" +
			"130 interrupted (what was measured until then is printed).",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.AddCommand(validateCommand(), loginCommand(), mixedCommand(), revokeCommand(), baselineCommand(), tableCommand())
	return root
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(err error) error { return usageError{err} }

func usagef(format string, args ...any) error { return usage(fmt.Errorf(format, args...)) }

// errInterrupted: somebody ended the run before its time.
var errInterrupted = errors.New("interrupted: the report is of what was measured until then")

// exitCode is the published exit code of an error.
func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.As(err, new(usageError)):
		return 2
	case errors.Is(err, errInterrupted):
		return 130
	}
	return 1
}

// oneTarget takes exactly one argument, the base URL of a tenant.
func oneTarget(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("%s takes one argument, the base URL, such as http://127.0.0.1:8480/t/demo", cmd.Name())
	}
	return nil
}
