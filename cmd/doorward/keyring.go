package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/tenants/seal"
)

func keyringCommand() *cobra.Command {
	cmd := group("keyring", "Change the root keys in a key ring file")
	cmd.Long = "A server reads its key ring when it starts. To change the root key, on every node in\n" +
		"turn: add a key and restart; then promote it and restart; then drop the old one.\n" +
		"Each step is for all nodes before the next one is for any."
	cmd.AddCommand(keyringList(), keyringCreate(),
		keyringChange("add FILE", "Add a root key, which only opens until it is promoted", func(r *seal.Ring, _ []string) (*seal.Ring, error) { return r.Add() }, "FILE"),
		keyringChange("promote FILE", "Have the key that was added seal", func(r *seal.Ring, _ []string) (*seal.Ring, error) { return r.Promote() }, "FILE"),
		keyringDrop(),
	)
	return cmd
}

func keyringCreate() *cobra.Command {
	return &cobra.Command{
		Use: "create FILE", Short: "Make a key ring with one root key, for nodes that start together", Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := os.Lstat(args[0]); err == nil {
				return fmt.Errorf("%s is there already, and is not written over", args[0])
			}
			ring, err := seal.LoadOrCreateRing(args[0])
			if err != nil {
				return err
			}
			listRing(cmd, ring)
			return nil
		},
	}
}

func keyringDrop() *cobra.Command {
	cmd := keyringChange("drop FILE ID", "Remove a root key that nothing is wrapped by any more",
		func(r *seal.Ring, args []string) (*seal.Ring, error) { return r.Drop(args[1]) }, "FILE", "ID")
	cmd.Long = "Remove a root key. What it wraps cannot be opened again: drop it only when every node\n" +
		"has been restarted after the promote and has logged that every tenant's keys are\n" +
		"wrapped by the topmost root key."
	return cmd
}

func keyringList() *cobra.Command {
	return &cobra.Command{
		Use: "list FILE", Short: "List the ids of the root keys; the topmost seals", Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ring, err := seal.LoadRing(args[0])
			if err != nil {
				return err
			}
			listRing(cmd, ring)
			return nil
		},
	}
}

// keyringChange is a verb that writes a changed ring in the file's place and
// lists it.
func keyringChange(use, short string, change func(*seal.Ring, []string) (*seal.Ring, error), takes ...string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: exactly(takes...),
		RunE: func(cmd *cobra.Command, args []string) error {
			ring, err := seal.LoadRing(args[0])
			if err != nil {
				return err
			}
			if ring, err = change(ring, args); err != nil {
				return fmt.Errorf("key ring %s: %w", args[0], err)
			}
			if err := ring.Replace(args[0]); err != nil {
				return err
			}
			listRing(cmd, ring)
			return nil
		},
	}
}

func listRing(cmd *cobra.Command, ring *seal.Ring) {
	for i, id := range ring.IDs() {
		does := "opens"
		switch {
		case i == 0:
			does = "seals"
		case id == ring.Added():
			does = "new"
		}
		fmt.Fprintln(cmd.OutOrStdout(), id, does)
	}
}
