package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
)

func verifierDiff(output *string, path func(string) (string, error)) *cobra.Command {
	return &cobra.Command{
		Use: "diff [FILE.wasm|DIR]", Short: "Show what an upload would change against the active version", Args: atMostOne,
		ValidArgsFunction: completeSubject,
		Long: "Show how a module differs from the version that decides logins now: in its digest, size, name and\n" +
			"version, methods, limits, imports, and in what it is granted. What is the same is not shown.",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := path("")
			if err != nil {
				return err
			}
			s, err := subjectOf(cmd, args)
			if err != nil {
				return err
			}
			e, err := s.examine()
			if err != nil {
				return err
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			active, err := activeVersion(cmd.Context(), a, p)
			if err != nil {
				return err
			}
			rows := differences(active, e.Version)
			if len(rows) == 0 && *output == "table" {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is version %d, which is active\n", s.name, active.Number)
				return err
			}
			if err := show(cmd, *output, rows, "what", "active", "new"); err != nil {
				return err
			}
			if added := plugins.Compare(active, e.Version).Added; active.Number > 0 && len(added) > 0 && *output == "table" {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "Its activation needs --approve-grants, because it is granted more.")
				return err
			}
			return nil
		},
	}
}

// activeVersion is the one that decides logins; the zero one when none does.
func activeVersion(ctx context.Context, a *admin, path string) (plugins.Version, error) {
	query := url.Values{}
	for {
		var page struct {
			Verifiers []plugins.Version `json:"verifiers"`
			Next      string            `json:"next_page_token"`
		}
		if err := a.do(ctx, "GET", path+"?"+query.Encode(), nil, &page); err != nil {
			return plugins.Version{}, err
		}
		for _, v := range page.Verifiers {
			if v.State == plugins.Active || v.State == plugins.Quarantined {
				return v, nil
			}
		}
		if page.Next == "" {
			return plugins.Version{}, nil
		}
		query.Set("page_token", page.Next)
	}
}

// differences are the lines in which two versions differ.
func differences(active, next plugins.Version) []map[string]any {
	rows := []map[string]any{}
	add := func(what, was, is string) {
		if was != is {
			rows = append(rows, map[string]any{"what": what, "active": orNone(was), "new": orNone(is)})
		}
	}
	if active.Digest == next.Digest {
		return rows
	}
	size, limits := "", func(int, string) string { return "" }
	if active.Number > 0 {
		size, limits = bytesOf(active.Size), limitText
	}
	add("digest", active.Digest, next.Digest)
	add("size", size, bytesOf(next.Size))
	add("name", active.Name, next.Name)
	add("manifest version", active.Release, next.Release)
	add("profile", active.Profile, next.Profile)
	add("methods", methodsText(active), orAny(next.Methods))
	add("cpu", limits(active.Limits.CPUMS, "ms"), limitText(next.Limits.CPUMS, "ms"))
	add("wall", limits(active.Limits.WallMS, "ms"), limitText(next.Limits.WallMS, "ms"))
	add("memory", limits(active.Limits.MemoryMiB, "MiB"), limitText(next.Limits.MemoryMiB, "MiB"))
	diff := plugins.Compare(active, next)
	for _, line := range diff.Removed {
		add("grant", line, "")
	}
	for _, line := range diff.Added {
		add("grant", "", line)
	}
	for _, name := range without(active.Imports, next.Imports) {
		add("import", name, "")
	}
	for _, name := range without(next.Imports, active.Imports) {
		add("import", "", name)
	}
	return rows
}

func limitText(n int, unit string) string { return fmt.Sprintf("%d %s", n, unit) }

func methodsText(v plugins.Version) string {
	if v.Number == 0 {
		return ""
	}
	return orAny(v.Methods)
}

// without are the contract's functions in a that are not in b: what a toolchain
// imports from WASI besides is nothing that an author chose.
func without(a, b []string) []string {
	there := map[string]bool{}
	for _, name := range b {
		there[name] = true
	}
	var left []string
	for _, name := range a {
		if !there[name] && strings.HasPrefix(name, abi.Module+".") {
			left = append(left, name)
		}
	}
	return left
}
