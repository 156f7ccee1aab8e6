package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Times of what is told of work that takes long.
const (
	quietTime = time.Second     // before the first word
	againWord = 5 * time.Second // between two
)

// during says on standard error that something is being done, once it has taken a
// second, and again until done is called. Only people are told: a terminal, or who
// asks with --verbose.
func during(cmd *cobra.Command, what string) (done func()) {
	verbose, _ := cmd.Flags().GetBool("verbose")
	if !verbose && !isTerminal(cmd.ErrOrStderr()) {
		return func() {}
	}
	began, stop, ended := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		wait := time.NewTimer(quietTime)
		defer wait.Stop()
		for {
			select {
			case <-wait.C:
				fmt.Fprintf(cmd.ErrOrStderr(), "%s … %.0f s\n", what, time.Since(began).Seconds())
				wait.Reset(againWord)
			case <-stop:
				return
			}
		}
	}()
	return func() { close(stop); <-ended }
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
