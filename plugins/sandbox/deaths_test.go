package sandbox

import (
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// childThat is a worker as its parent sees it, and the other ends of its sockets.
func childThat(t *testing.T) (*process, io.ReadWriter) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	if err := cmd.Run(); err != nil { // so that there is a process to kill, in vain
		t.Fatal(err)
	}
	ours, theirs, err := newWire()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); closeAll(theirs) })
	gone := make(chan struct{})
	close(gone)
	return &process{cmd: cmd, conn: ours, said: &head{}, gone: gone, cache: newCache(t, 1<<20)}, struct {
		io.Reader
		io.Writer
	}{theirs[0], theirs[1]}
}

// A worker that was killed for it was once not counted, so that a module could
// have one after the other killed.
func TestALoadThatTakesTooLongIsADeathOfItsModule(t *testing.T) {
	defer func(was time.Duration) { loadTime = was }(loadTime)
	loadTime = 20 * time.Millisecond
	b, c := newBreakers(), Call{Tenant: "a", Digest: "sha256:1"}
	for n := 1; n <= deathsToQuarantine; n++ {
		child, _ := childThat(t)
		err := child.load(c, []byte("module"))
		if !child.dead || !errors.Is(err, ErrGuest) || !strings.Contains(err.Error(), "longer than 20ms to load") {
			t.Fatalf("dead %v: %v", child.dead, err)
		}
		if quarantined, _ := b.note(c, false, endingOf(err)); quarantined != (n == deathsToQuarantine) {
			t.Errorf("after %d of them quarantined is %v", n, quarantined)
		}
	}
}

// Who speaks like that is not our worker any more; it was once given the next
// call when only its log was nonsense.
func TestAWorkerThatSpeaksNonsenseIsKilledAndADeathOfItsModule(t *testing.T) {
	c := Call{Tenant: "a", Digest: "sha256:1", Wall: time.Minute}
	end := func(output, logs string) frame {
		return frame{kindDone, [][]byte{nil, []byte(output), number(1), []byte(logs), number(1)}}
	}
	load := func(child *process) error { return child.load(c, []byte("module")) }
	call := func(child *process) error {
		child.loaded = []string{c.key()}
		_, err := child.call(t.Context(), NewTokens(1, 1), c)
		return err
	}
	for name, lie := range map[string]struct {
		asked  func(*process) error
		answer frame
	}{
		"an end at a load":                {load, end("out", "[]")},
		"a kind that there is not":        {load, frame{kind: 1}},
		"an end of one argument":          {call, frame{kindDone, [][]byte{nil}}},
		"an end whose log is no JSON":     {call, end("out", "[[[")},
		"an end whose log has no end":     {call, end("out", strings.Repeat(" ", 1<<20)+"[]")},
		"a question without a name":       {call, frame{kind: kindHost}},
		"what only a compile child says":  {call, frame{kind: kindOK}},
		"an end that is fine, by its way": {call, end("out", "[]")},
	} {
		t.Run(name, func(t *testing.T) {
			child, parent := childThat(t)
			go func() {
				if _, err := readFrame(parent); err == nil {
					lie.answer.write(parent)
				}
			}()
			err := lie.asked(child)
			if strings.Contains(name, "fine") {
				if err != nil || child.dead {
					t.Fatalf("dead %v: %v", child.dead, err)
				}
				return
			}
			if !child.dead || !errors.Is(err, ErrGuest) || endingOf(err) != died {
				t.Fatalf("dead %v, ending %v: %v", child.dead, endingOf(err), err)
			}
		})
	}
	t.Run("a frame of 4 GiB", func(t *testing.T) {
		for name, asked := range map[string]func(*process) error{"load": load, "call": call} {
			child, parent := childThat(t)
			go func() {
				if _, err := readFrame(parent); err == nil {
					parent.Write([]byte{0xff, 0xff, 0xff, 0xff})
				}
			}()
			if err := asked(child); !child.dead || endingOf(err) != died {
				t.Errorf("%s: dead %v, ending %v: %v", name, child.dead, endingOf(err), err)
			}
		}
	})
}
