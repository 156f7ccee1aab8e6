package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func verifierBuild() *cobra.Command {
	var language string
	cmd := &cobra.Command{
		Use: "build [DIR]", Short: "Build the verifier in a directory, with its manifest inside", Args: atMostOne,
		Long: "Build the verifier whose source is in DIR, or in this directory, and write DIR/verifier.wasm with\n" +
			"doorward.manifest.json inside. It calls the language's compiler, and says how to get it where it is missing.",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			p, err := openProject(dir, language)
			if err != nil {
				return err
			}
			done := during(cmd, "building with "+p.language)
			file, err := p.build(cmd.Context())
			done()
			if err != nil {
				return err
			}
			info, err := os.Stat(file)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", file, bytesOf(int(info.Size())))
			return nil
		},
	}
	cmd.Flags().StringVar(&language, "lang", "", "the language, where the files do not tell: "+languageList())
	return cmd
}
