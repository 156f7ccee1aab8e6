package main

import (
	"os"
	"testing"
	"time"
)

func TestStatIsReadWhateverTheProcessIsCalled(t *testing.T) {
	const text = "4242 (a) b (c) S 17 4242 4242 0 -1 4194560 1516 2 0 0 251 49 7 3 20 0 9 0 8190 1 1 1\n"
	got, err := parseStat(text)
	if err != nil {
		t.Fatal(err)
	}
	if want := (stat{pid: 4242, parent: 17, own: 3 * time.Second, waited: 100 * time.Millisecond}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, bad := range []string{"", "1", "1 (x) S", "1 (x) S y 1 1 0 -1 1 1 2 0 0 1 1 1 1 2"} {
		if s, err := parseStat(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, s)
		}
	}
}

func TestAServersWorkersAreCountedWithIt(t *testing.T) {
	got := total(stat{pid: 10, parent: 1, own: time.Second}, []stat{
		{pid: 13, parent: 12, own: 90 * time.Second, waited: 10 * time.Second}, // a worker's, listed before its parent
		{pid: 12, parent: 10, own: 10 * time.Second},
		{pid: 20, parent: 1, own: 1000 * time.Second},
	})
	if got != 111*time.Second {
		t.Errorf("%s", got)
	}
}

func TestProcessorTimeThatWasUsedIsSeen(t *testing.T) {
	before, err := processTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	own := ownTime()
	for ownTime()-own < 50*time.Millisecond { // turns until it has been used
	}
	after, err := processTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if used := after - before; used < 50*time.Millisecond {
		t.Errorf("%s of at least 50 ms were seen: finer than /proc's steps of 10 ms", used)
	}
	if _, err := processTime(1 << 30); err == nil {
		t.Error("a process that does not exist has used processor time")
	}
}
