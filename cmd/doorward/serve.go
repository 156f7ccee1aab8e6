package main

import (
	"os"

	"github.com/spf13/cobra"
)

// serverFlags adds the flags that dev and serve share.
func serverFlags(cmd *cobra.Command, c *config) {
	cmd.Flags().StringVar(&c.DataDir, "data-dir", "", "directory for everything this node keeps")
	cmd.Flags().StringVar(&c.Listen, "listen", "", "address for browsers and apps (default 127.0.0.1:8480)")
	cmd.Flags().StringVar(&c.AdminListen, "admin-listen", "", "address for operators and probes (default 127.0.0.1:8481)")
}

// lay puts the flags that were given over c.
func (c *config) lay(flags config) {
	for _, f := range []struct {
		to   *string
		from string
	}{{&c.DataDir, flags.DataDir}, {&c.Listen, flags.Listen}, {&c.AdminListen, flags.AdminListen}} {
		if f.from != "" {
			*f.to = f.from
		}
	}
}

func serveCommand() *cobra.Command {
	var flags config
	var file string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run a production node; refuses to start unless it is safe",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := serveConfig(file, flags)
			if err != nil {
				return err
			}
			return run(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	serverFlags(cmd, &flags)
	cmd.Flags().StringVar(&file, "config", "", "YAML configuration file")
	return cmd
}

// serveConfig is the configuration of a server for others, checked.
func serveConfig(file string, flags config) (config, error) {
	var c config
	if file != "" {
		if err := c.fromFile(file); err != nil {
			return config{}, err
		}
	}
	if err := c.fromEnv(os.LookupEnv); err != nil {
		return config{}, err
	}
	c.lay(flags)
	c.complete()
	return c, c.check()
}

// noArgs refuses arguments as the usage error that they are.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usage(err)
	}
	return nil
}
