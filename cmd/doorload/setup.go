package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorward/doorward/sessions"
)

// Signing in before the run is a closed loop, and gentle: what is measured comes
// later.
const (
	setupInFlight = 8
	setupTries    = 10
	setupPause    = 500 * time.Millisecond
)

// signInMany makes n sessions by real logins, and says on errs how it gets on.
func (o *options) signInMany(ctx context.Context, at *door, password secret, n int, errs io.Writer) ([]sessions.Token, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tokens := make([]sessions.Token, n)
	var next, done atomic.Int64
	var all sync.WaitGroup
	for range min(n, setupInFlight) {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				token, err := signInOnce(ctx, at, o.user(i), password)
				if err != nil {
					cancel(err)
					return
				}
				tokens[i] = token
				if d := done.Add(1); d%10_000 == 0 {
					fmt.Fprintf(errs, "%d of %d sessions made at %s\n", d, n, at.base)
				}
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("make sessions at %s: %w", at.base, context.Cause(ctx))
	}
	return tokens, nil
}

// signInOnce tries again when the server says that it is busy.
func signInOnce(ctx context.Context, at *door, username string, password secret) (sessions.Token, error) {
	for try := 1; ; try++ {
		token, got := at.login(ctx, username, password)
		switch {
		case !token.IsZero():
			return token, nil
		case got.status != 429 && got.status != 503 || try == setupTries:
			return token, fmt.Errorf("login as %q: answer %d %s", username, got.status, got.code)
		case !sleepUntil(ctx, time.Now().Add(setupPause)):
			return token, ctx.Err()
		}
	}
}

// touch asks about each token once, so that the door has them at hand, and wants
// all of them to be good: max_per_subject may have ended the first of them.
func touch(ctx context.Context, at *door, tokens []sessions.Token) error {
	var next, dead atomic.Int64
	var last atomic.Value
	var all sync.WaitGroup
	for range setupInFlight {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(tokens) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if got := at.validate(ctx, tokens[i]); got.status != 200 {
					dead.Add(1)
					last.Store(got)
				}
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if n := dead.Load(); n > 0 {
		got := last.Load().(answer)
		return fmt.Errorf("%d of %d sessions at %s do not validate (the last answer was %d %s): if max_per_subject ended them, raise it or put {n} into --username", n, len(tokens), at.base, got.status, got.code)
	}
	return nil
}

// readTokens reads a file of one token a line.
func readTokens(path string) ([]sessions.Token, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the tokens: %w", err)
	}
	defer file.Close()
	var tokens []sessions.Token
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		token, err := sessions.ParseToken(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("read the tokens: %s line %d: %w", path, len(tokens)+1, err)
		}
		tokens = append(tokens, token)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the tokens: %w", err)
	}
	return tokens, nil
}

// saveTokens writes what readTokens reads. They open sessions, so the file is
// for its owner alone, and an old one is not overwritten.
func saveTokens(path string, tokens []sessions.Token) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("save the tokens: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	w := bufio.NewWriter(file)
	for _, t := range tokens {
		fmt.Fprintln(w, t.Reveal())
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("save the tokens: %w", err)
	}
	return nil
}
