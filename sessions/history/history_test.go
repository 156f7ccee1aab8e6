package history_test

import (
	"testing"
	"time"

	"github.com/doorward/doorward/sessions/history"
)

var zero = time.Unix(1000, 0)

func at(ms int) time.Time { return zero.Add(time.Duration(ms) * time.Millisecond) }

// op is one that began and ended at those milliseconds.
func op(kind history.Kind, outcome history.Outcome, begin, end int, change ...func(*history.Op)) history.Op {
	o := history.Op{Session: "s", Kind: kind, Outcome: outcome, Start: at(begin), End: at(end), Deadline: at(10_000)}
	for _, c := range change {
		c(&o)
	}
	return o
}

func token(n int) func(*history.Op)  { return func(o *history.Op) { o.Token = n } }
func got(n int) func(*history.Op)    { return func(o *history.Op) { o.Got = n } }
func stale(ms int) func(*history.Op) { return func(o *history.Op) { o.Stale = at(ms).Sub(zero) } }

func TestAHistoryIsRightOrWrong(t *testing.T) {
	const (
		create, find, rotate, revoke = history.Create, history.Find, history.Rotate, history.Revoke
		yes, no, unknown             = history.Yes, history.No, history.Unknown
	)
	for name, c := range map[string]struct {
		right bool
		ops   []history.Op
	}{
		"a life": {true, []history.Op{op(create, yes, 0, 1), op(find, yes, 2, 3), op(rotate, yes, 4, 5, got(1)), op(find, yes, 6, 7, token(1)), op(revoke, yes, 8, 9), op(find, no, 10, 11, token(1))}},

		"found after a revoke":              {false, []history.Op{op(create, yes, 0, 1), op(revoke, yes, 2, 3), op(find, yes, 4, 5)}},
		"found while it is revoked":         {true, []history.Op{op(create, yes, 0, 1), op(revoke, yes, 2, 5), op(find, yes, 3, 4)}},
		"gone, then back":                   {false, []history.Op{op(create, yes, 0, 1), op(revoke, yes, 2, 9), op(find, no, 3, 4), op(find, yes, 5, 6)}},
		"revoked without an answer":         {true, []history.Op{op(create, yes, 0, 1), op(revoke, unknown, 2, 3), op(find, yes, 4, 5), op(find, no, 6, 7)}},
		"back after an unanswered revoke":   {false, []history.Op{op(create, yes, 0, 1), op(revoke, unknown, 2, 3), op(find, no, 4, 5), op(find, yes, 6, 7)}},
		"lost":                              {false, []history.Op{op(create, yes, 0, 1), op(find, no, 2, 3)}},
		"not decided":                       {true, []history.Op{op(create, yes, 0, 1), op(find, unknown, 2, 3)}},
		"a copy, within its bound":          {true, []history.Op{op(create, yes, 0, 1), op(revoke, yes, 2, 3), op(find, yes, 400, 401, stale(500))}},
		"a copy, beyond its bound":          {false, []history.Op{op(create, yes, 0, 1), op(revoke, yes, 2, 3), op(find, yes, 600, 601, stale(500))}},
		"found after its deadline":          {false, []history.Op{op(create, yes, 0, 1), op(find, yes, 10_000, 10_001)}},
		"found after its deadline, a copy":  {false, []history.Op{op(create, yes, 0, 1), op(find, yes, 10_000, 10_001, stale(500))}},
		"found before its deadline":         {true, []history.Op{op(create, yes, 0, 1), op(find, yes, 9_999, 10_001)}},
		"over after its deadline":           {true, []history.Op{op(create, yes, 0, 1), op(find, no, 9_999, 10_000)}},
		"an old token within its grace":     {true, []history.Op{op(create, yes, 0, 1), op(rotate, yes, 2, 3, got(1)), op(find, yes, 900, 901)}},
		"an old token refused too early":    {false, []history.Op{op(create, yes, 0, 1), op(rotate, yes, 2, 3, got(1)), op(find, no, 900, 901)}},
		"an old token after its grace":      {false, []history.Op{op(create, yes, 0, 1), op(rotate, yes, 2, 3, got(1)), op(find, yes, 1100, 1101)}},
		"a session after its token's reuse": {false, []history.Op{op(create, yes, 0, 1), op(rotate, yes, 2, 3, got(1)), op(find, no, 1100, 1101), op(find, yes, 1200, 1201, token(1))}},
		"two tabs, one successor":           {true, []history.Op{op(create, yes, 0, 1), op(rotate, yes, 2, 5, got(1)), op(rotate, yes, 3, 4, got(1))}},
		"two tabs, two successors":          {false, []history.Op{op(create, yes, 0, 1), op(rotate, yes, 2, 5, got(1)), op(rotate, yes, 3, 4, got(2))}},
		"an old token leads to the newest":  {true, []history.Op{op(create, yes, 0, 1), op(rotate, yes, 2, 3, got(1)), op(rotate, yes, 4, 5, token(1), got(2)), op(rotate, yes, 6, 7, got(2))}},
		"an old token leads to an old one":  {false, []history.Op{op(create, yes, 0, 1), op(rotate, yes, 2, 3, got(1)), op(rotate, yes, 4, 5, token(1), got(2)), op(rotate, yes, 6, 7, got(1))}},
		"rotated without an answer":         {true, []history.Op{op(create, yes, 0, 1), op(rotate, unknown, 2, 3), op(rotate, yes, 4, 5, got(1)), op(find, yes, 6, 7, token(1))}},
		"rotated after the end":             {false, []history.Op{op(create, yes, 0, 1), op(revoke, yes, 2, 3), op(rotate, yes, 4, 5, got(1))}},
		"ended twice":                       {true, []history.Op{op(create, yes, 0, 1), op(revoke, yes, 2, 3), op(revoke, yes, 4, 5), op(find, no, 6, 7)}},
	} {
		h := &history.History{Grace: time.Second}
		for _, o := range c.ops {
			h.Add(o)
		}
		if err := h.Check(time.Minute); (err == nil) != c.right {
			t.Errorf("%s: right %v, err %v", name, c.right, err)
		}
	}
}

func TestTokensAreNumberedAsTheyBecomeKnown(t *testing.T) {
	var h history.History
	for i, token := range []string{"a", "b", "a", "c", "b"} {
		if got, want := h.Version("s", token), []int{0, 1, 0, 2, 1}[i]; got != want {
			t.Errorf("%s is %d, want %d", token, got, want)
		}
	}
}
