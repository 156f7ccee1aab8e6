package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// Times of a followed log: a server says something every 15 s, and ends each
// answer after ten minutes.
const (
	deadTime  = 45 * time.Second // without a sign of life
	againTime = time.Second      // between two requests
)

var logColumns = []string{"time", "version", "level", "text"}

func verifierLogs(output *string, path func(string) (string, error)) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "logs", Short: "What the verifier wrote, and why it failed, lately on this node", Args: noArgs,
		Long: "Show what the verifier wrote, and why it failed, lately. A node keeps the last 200 lines of a\n" +
			"tenant for itself and forgets them when it stops: with several nodes, ask each one. With --follow,\n" +
			"lines are shown as they are written until it is interrupted; -o json prints an object for each.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := path("/logs")
			if err != nil {
				return err
			}
			a, err := newAdmin()
			if err != nil {
				return err
			}
			if follow {
				return followLog(cmd, a, p, *output)
			}
			var out struct {
				Logs []map[string]any `json:"logs"`
			}
			if err := a.do(cmd.Context(), http.MethodGet, p, nil, &out); err != nil {
				return err
			}
			return show(cmd, *output, out.Logs, logColumns...)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as lines are written")
	return cmd
}

// followLog shows a log until the command is interrupted, which is no error. An
// answer that ends is asked for again, from the line that was shown last.
func followLog(cmd *cobra.Command, a *admin, path, output string) error {
	if output != "table" && output != "json" {
		return show(cmd, output, nil) // which says what it may be
	}
	a.http.Timeout = 0 // the answer goes on
	ctx, after := cmd.Context(), int64(0)
	for {
		err := followOnce(ctx, a, fmt.Sprintf("%s?follow=true&after=%d", path, after), func(line []byte) error {
			return showLine(cmd, output, line, &after)
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(againTime):
		case <-ctx.Done():
			return nil
		}
	}
}

// followOnce reads one answer to its end.
func followOnce(ctx context.Context, a *admin, path string, each func(line []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dead := time.AfterFunc(deadTime, func() { cancel(fmt.Errorf("%w any more: nothing came for %v", errReach, deadTime)) })
	defer dead.Stop()
	answer, err := a.open(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	defer answer.Close()
	lines := bufio.NewReader(answer)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errors.Join(context.Cause(ctx), fmt.Errorf("%w any more: %w", errReach, err))
		}
		dead.Reset(deadTime)
		if len(line) == 1 {
			continue // a sign of life
		}
		if err := each(line); err != nil {
			return err
		}
	}
}

// showLine prints one line of a followed log and notes its id.
func showLine(cmd *cobra.Command, output string, text []byte, after *int64) error {
	var line struct {
		ID      int64  `json:"id"`
		Time    string `json:"time"`
		Version int    `json:"version"`
		Level   string `json:"level"`
		Text    string `json:"text"`
		Missed  int64  `json:"missed"`
	}
	if err := json.Unmarshal(text, &line); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if line.Missed == 0 {
		*after = line.ID
	}
	switch {
	case output == "json":
		_, err := cmd.OutOrStdout().Write(text)
		return err
	case line.Missed > 0:
		_, err := fmt.Fprintf(cmd.ErrOrStderr(), "warning: %d lines came faster than they were read and are not kept\n", line.Missed)
		return err
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %d  %-5s  %s\n", line.Time, line.Version, line.Level, line.Text)
	return err
}
