package plugins

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// diary is the tenants' logs of one node, in fake time.
type diary struct {
	*testing.T
	*logRings
}

func inDiary(t *testing.T, limit int, test func(d diary)) {
	synctest.Test(t, func(t *testing.T) { test(diary{t, newLogRings(limit)}) })
}

// write adds n lines of the tenant's, numbered from first.
func (d diary) write(tenant string, first, n int) {
	for i := range n {
		d.add(tenant, LogEntry{Text: fmt.Sprint(first + i)})
	}
}

func (d diary) reader(tenant string, after int64) *LogReader {
	d.Helper()
	r, err := d.follow(tenant, after)
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(r.Close)
	return r
}

// reads wants the lines from first to last, after so many that were missed.
func (d diary) reads(r *LogReader, missed int64, first, last int) (id int64) {
	d.Helper()
	lines, lost, err := r.Read(d.Context())
	if err != nil || lost != missed || len(lines) != last-first+1 || lines[0].Text != fmt.Sprint(first) || lines[len(lines)-1].Text != fmt.Sprint(last) {
		d.Fatalf("%d lines, %d missed, %v; want %d to %d after %d: %+v", len(lines), lost, err, first, last, missed, lines)
	}
	return lines[len(lines)-1].ID
}

func TestALogIsFollowedAsItIsWritten(t *testing.T) {
	inDiary(t, keepBytes, func(d diary) {
		d.write("a", 1, 2)
		d.write("b", 100, 1)
		r := d.reader("a", 0)
		id := d.reads(r, 0, 1, 2)
		go func() {
			time.Sleep(time.Hour)
			d.write("b", 101, 1) // nobody's business here
			time.Sleep(time.Hour)
			d.write("a", 3, 1)
		}()
		began := time.Now()
		if next := d.reads(r, 0, 3, 3); next != id+1 || time.Since(began) != 2*time.Hour {
			d.Errorf("line %d after %d, after %v", next, id, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(d.Context(), time.Minute)
		defer cancel()
		if _, _, err := r.Read(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 2*time.Hour+time.Minute {
			d.Errorf("without a line: %v after %v", err, time.Since(began))
		}
		d.write("a", 4, 1)
		d.reads(d.reader("a", id), 0, 3, 4) // who comes again says what it has
	})
}

func TestASlowReaderMissesLinesAndIsToldHowMany(t *testing.T) {
	inDiary(t, keepBytes, func(d diary) {
		r := d.reader("a", 0)
		d.write("a", 1, keepEntries)
		id := d.reads(r, 0, 1, keepEntries)
		d.write("a", keepEntries+1, keepEntries+50)
		d.reads(r, 50, keepEntries+51, 2*keepEntries+50)
		d.reads(d.reader("a", id), 50, keepEntries+51, 2*keepEntries+50)
		if got := len(d.of("a")); got != keepEntries {
			d.Errorf("%d lines are kept", got)
		}
	})
}

func TestAnIDOfAnotherTimeBeginsWithTheOldestLine(t *testing.T) {
	inDiary(t, keepBytes, func(d diary) {
		before := newLogRings(keepBytes)
		before.add("a", LogEntry{Text: "before the restart"})
		old := before.of("a")[0].ID
		time.Sleep(time.Second)
		d.write("a", 1, 3)
		for _, after := range []int64{0, 1, old, d.of("a")[2].ID + 1, 1 << 62, 1<<63 - 1} {
			r := d.reader("a", after)
			d.reads(r, 0, 1, 3)
			r.Close()
		}
	})
}

func TestFewFollowAtOnce(t *testing.T) {
	inDiary(t, keepBytes, func(d diary) {
		refused := func(tenant string) {
			d.Helper()
			if _, err := d.follow(tenant, 0); !errors.Is(err, ErrFollowed) {
				d.Errorf("one more at %s: %v", tenant, err)
			}
		}
		first := d.reader("t0", 0)
		for i := 1; i < maxFollowers; i++ {
			d.reader(fmt.Sprint("t", i/tenantShare), 0)
			if i == tenantShare {
				refused("t0")
			}
		}
		refused("another")
		first.Close()
		d.reader("t0", 0)
		refused("another")
		if len(d.rings) != maxFollowers/tenantShare {
			d.Errorf("%d rings", len(d.rings))
		}
	})
}

func TestARemovedTenantEndsItsFollowers(t *testing.T) {
	inDiary(t, keepBytes, func(d diary) {
		r := d.reader("a", 0)
		go func() {
			time.Sleep(time.Second)
			d.forget("a")
		}()
		if _, _, err := r.Read(d.Context()); !errors.Is(err, io.EOF) {
			d.Errorf("err = %v", err)
		}
		d.write("a", 1, 1)
		if _, _, err := r.Read(d.Context()); !errors.Is(err, io.EOF) {
			d.Errorf("it reads what a tenant of the same name writes: %v", err)
		}
	})
}

func TestTheLogsOfAllTenantsAreBounded(t *testing.T) {
	const each = 1000 + entryBytes
	inDiary(t, 10*each, func(d diary) {
		text := strings.Repeat("x", 1000)
		d.add("followed", LogEntry{Text: text})
		r := d.reader("followed", 0)
		if lines, _, err := r.Read(d.Context()); err != nil || len(lines) != 1 {
			d.Fatal(lines, err)
		}
		d.add("followed", LogEntry{Text: text})
		for i := range 100 {
			d.add(fmt.Sprint("t", i), LogEntry{Text: text})
			if d.bytes > 10*each {
				d.Fatalf("%d bytes are kept, of %d", d.bytes, 10*each)
			}
		}
		if len(d.of("t99")) != 1 || len(d.of("t91")) != 1 || len(d.of("t89")) != 0 {
			d.Error("who wrote least lately was to lose its lines")
		}
		d.write("followed", 3, 1)
		d.reads(r, 1, 3, 3)
		total := 0
		for _, ring := range d.rings {
			for _, e := range ring.entries {
				total += entrySize(e)
			}
		}
		if total != d.bytes || len(d.rings) > 11 {
			d.Errorf("%d bytes are counted, %d are there, of %d tenants", d.bytes, total, len(d.rings))
		}
	})
}

// A worker that was taken over sends what it likes.
func TestALineIsHarmlessInATerminal(t *testing.T) {
	l := newLogRings(keepBytes)
	l.add("a", LogEntry{Text: "red \x1b[31m\x1b]0;title\x07 \r\n two \u202e \u009b1m \xff \x00 é"})
	want := `red \x1b[31m\x1b]0;title\a \r\n two \u202e \u009b1m \xff \x00 é`
	if got := l.of("a")[0].Text; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
