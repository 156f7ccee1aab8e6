package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

func verifierCheck(output *string) *cobra.Command {
	var quick bool
	cmd := &cobra.Command{
		Use: "check [FILE.wasm|DIR]", Short: "Find what an upload would find, without a server", Args: atMostOne,
		ValidArgsFunction: completeSubject,
		Long: "Hold a module to what a server holds an upload to, by the same code: the format, imports, grants and\n" +
			"limits, and that it compiles. A directory's verifier is built first if its source is newer.",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := subjectOf(cmd, args)
			if err != nil {
				return err
			}
			e, err := s.examine()
			if err != nil {
				return err
			}
			compiled := "not compiled"
			if !quick {
				done := during(cmd, "compiling "+s.name)
				err := inSandbox(cmd.Context(), "sandbox", func(pool *sandbox.Pool) error {
					r, err := plugins.Rehearse(cmd.Context(), pool, e)
					if err == nil {
						compiled = fmt.Sprintf("compiles (%.1f s)", r.Compiled().Seconds())
					}
					return err
				})
				done()
				if err != nil {
					return withHint(fmt.Errorf("%s: %w", s.name, err))
				}
			}
			if *output != "table" {
				return show(cmd, *output, e)
			}
			return tellExamination(cmd.OutOrStdout(), s.name, compiled, e)
		},
	}
	cmd.Flags().BoolVar(&quick, "quick", false, "do not compile it")
	return cmd
}

// tellExamination prints what an examination found.
func tellExamination(w io.Writer, name, compiled string, e plugins.Examination) error {
	v := e.Version
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(head, text string, rest ...any) {
		fmt.Fprintf(table, "%s\t"+text+"\n", append([]any{head}, rest...)...)
	}
	row("module", "%s, %s, profile %s, %s", name, bytesOf(v.Size), v.Profile, compiled)
	row("digest", "%s", v.Digest)
	row("name", "%s", strings.TrimSpace(orNone(v.Name)+" "+v.Release))
	row("methods", "%s", orAny(v.Methods))
	row("imports", "%s", orNone(strings.Join(v.Imports, " ")))
	row("grants", "%s", orNone(strings.Join(plugins.GrantLines(v.Grants), ", ")))
	for _, l := range []struct {
		name                   string
		is, byDefault, ceiling int
		unit                   string
	}{
		{"cpu", v.Limits.CPUMS, abi.DefaultCPUMS, abi.MaxCPUMS, "ms"},
		{"wall", v.Limits.WallMS, abi.DefaultWallMS, abi.MaxWallMS, "ms"},
		{"memory", v.Limits.MemoryMiB, abi.DefaultMemoryMiB, abi.MaxMemoryMiB, "MiB"},
	} {
		row("limit", "%s %d %s (default %d, ceiling %d)", l.name, l.is, l.unit, l.byDefault, l.ceiling)
	}
	row("vectors", "%d in the manifest", len(e.Vectors))
	for i, f := range e.Figures {
		if part := 100 * float64(f.Found) / float64(f.Limit); i == 0 || part >= 1 { // -o json has the rest
			row("size", "%s %d of %d (%.1f %%)", f.Name, f.Found, f.Limit, part)
		}
	}
	for _, warning := range v.Warnings {
		row("warning", "%s", warning)
	}
	for _, note := range e.Notes {
		row("note", "%s", note)
	}
	return table.Flush()
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func orAny(list []string) string {
	if len(list) == 0 {
		return "any"
	}
	return strings.Join(list, ", ")
}

// bytesOf is a size for people.
func bytesOf(n int) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 1<<20:
		return fmt.Sprintf("%.0f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
