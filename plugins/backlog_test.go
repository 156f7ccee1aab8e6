package plugins

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestTheLatestActivationsAreCompiledFirstThenTheLatestUploads(t *testing.T) {
	b, day := newBacklog(), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	staged := func(number, days int) job {
		return job{tenant: "a", version: Version{Number: number, State: Staged, CreatedAt: day.AddDate(0, 0, days)}}
	}
	active := func(number, days int) job {
		j := staged(number, 0)
		j.version.State, j.version.ActivatedAt = Active, day.AddDate(0, 0, days)
		return j
	}
	for _, j := range []job{staged(1, 1), active(2, 5), staged(3, 9), active(4, 7), staged(3, 9), active(2, 5), active(1, 6)} {
		b.add(j)
	}
	takes := func(number int, isActive bool) {
		t.Helper()
		j, err := b.take(t.Context())
		if err != nil || j.version.Number != number || (j.version.State == Active) != isActive {
			t.Fatalf("took %+v, %v; want %d", j.version, err, number)
		}
	}
	takes(4, true)
	takes(1, true)
	takes(2, true)
	takes(3, false)
	takes(1, false) // as staged it had been put down before
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if j, err := b.take(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("took %+v of nothing, %v", j, err)
	}
	b.add(staged(3, 9)) // written again: it is looked at again
	takes(3, false)
}
