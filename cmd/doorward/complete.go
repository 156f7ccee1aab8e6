package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// completeTime is how long somebody who presses tab waits for a server.
const completeTime = time.Second

// completeTenants are the tenants' ids, for a shell; nothing when no server says.
func completeTenants(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return complete(cmd.Context(), "/tenants", "tenants", "id", "name")
}

// completed has a command's flag --tenant completed. A flag that is not there would
// be a mistake of ours, which no user can mend.
func completed(cmd *cobra.Command) {
	if err := cmd.RegisterFlagCompletionFunc("tenant", completeTenants); err != nil {
		panic(err)
	}
}

// completeTenant is completeTenants for a command's first argument alone.
func completeTenant(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return completeTenants(cmd, args, typed)
}

// completeVersions are the numbers of the tenant's versions.
func completeVersions(path func(string) (string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		p, err := path("")
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd.Context(), p, "verifiers", "version", "state")
	}
}

// completeSubject offers what a command about a module takes.
func completeSubject(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"wasm"}, cobra.ShellCompDirectiveFilterFileExt
}

// complete offers a field of each of a list's items, with another that describes
// it. Whatever goes wrong, there is nothing to offer, and nothing to say.
func complete(ctx context.Context, path, list, field, about string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	a, err := newAdmin()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	items, err := a.all(ctx, path, list, url.Values{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var offers []string
	for _, item := range items {
		offers = append(offers, fmt.Sprintf("%s\t%s", cell(item[field]), cell(item[about])))
	}
	return offers, cobra.ShellCompDirectiveNoFileComp
}
