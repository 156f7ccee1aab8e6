package sandbox_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/sandbox"
)

// A worker that has waited so long that Go's scheduler knows of it goes on
// waiting, and reads what comes then.
func TestAWorkerThatWaitsLongReadsWhatComes(t *testing.T) {
	parent, child := sandbox.Wire(t.Context())
	read := make(chan []byte)
	go func() {
		got := make([]byte, 5)
		if _, err := io.ReadFull(child, got); err != nil {
			t.Error(err)
		}
		read <- got
	}()
	select {
	case got := <-read:
		t.Fatalf("read %q, which nobody wrote", got)
	case <-time.After(20 * sandbox.Near):
	}
	if _, err := parent.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got := <-read; string(got) != "hello" {
		t.Errorf("read %q", got)
	}
	parent.Close()
	if n, err := child.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the parent has gone: %d, %v", n, err)
	}
}

// What is larger than a socket holds arrives whole in both directions, though each
// end waits for the other longer than it does at once.
func TestWhatASocketDoesNotHoldArrivesWhole(t *testing.T) {
	parent, child := sandbox.Wire(t.Context())
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	for name, way := range map[string]struct {
		to   io.Writer
		from io.Reader
	}{"to the child": {parent, child}, "to the parent": {child, parent}} {
		t.Run(name, func(t *testing.T) {
			wrote := make(chan error)
			go func() {
				_, err := way.to.Write(large)
				wrote <- err
			}()
			time.Sleep(2 * sandbox.Patience) // the writer has to wait for a reader that is late
			got := make([]byte, len(large))
			if _, err := io.ReadFull(way.from, got); err != nil || !bytes.Equal(got, large) {
				t.Errorf("%v; %d bytes", err, len(got))
			}
			if err := <-wrote; err != nil {
				t.Error(err)
			}
		})
	}
}

// A child that reads nothing holds up its parent until the deadline, and one that
// says nothing too.
func TestAParentWaitsForAChildUntilItsDeadline(t *testing.T) {
	parent, _ := sandbox.Wire(t.Context())
	began := time.Now()
	parent.SetDeadline(began.Add(100 * time.Millisecond))
	if _, err := parent.Write(make([]byte, 4<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %v", err)
	}
	if _, err := parent.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	if took := time.Since(began); took < 100*time.Millisecond || took > 5*time.Second {
		t.Errorf("that took %v", took)
	}
}
