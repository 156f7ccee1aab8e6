package main

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"
)

// What is quick is done in silence, what takes long is told of, and a script that
// asked for nothing hears nothing.
func TestWhatTakesLongIsToldOf(t *testing.T) {
	for _, c := range []struct {
		verbose bool
		takes   time.Duration
		says    string
	}{
		{true, 900 * time.Millisecond, ""},
		{true, 1500 * time.Millisecond, "compiling … 1 s\n"},
		{true, 12 * time.Second, "compiling … 1 s\ncompiling … 6 s\ncompiling … 11 s\n"},
		{false, time.Minute, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			var said bytes.Buffer
			cmd := &cobra.Command{}
			cmd.Flags().Bool("verbose", c.verbose, "")
			cmd.SetErr(&said)
			done := during(cmd, "compiling")
			time.Sleep(c.takes)
			done()
			if said.String() != c.says {
				t.Errorf("verbose %v, %v: %q, want %q", c.verbose, c.takes, said.String(), c.says)
			}
		})
	}
}
