package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by make build from git.
var version = "devel"

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text := version
			if info, ok := debug.ReadBuildInfo(); ok && text == "devel" && info.Main.Version != "" {
				text = info.Main.Version
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "doorward %s %s/%s %s\n", text, runtime.GOOS, runtime.GOARCH, runtime.Version())
			return err
		},
	}
}
