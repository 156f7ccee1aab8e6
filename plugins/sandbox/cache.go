package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/plugins/wasm"
)

// maxCompiled bounds what one compile may write, in bytes: some ten times the
// largest module. A compile child may have as much in its room, however many files
// it makes of it.
const maxCompiled = 256 << 20

// cache is the directory of compiled modules. Only this process writes it; no
// child does. Each module has a directory of its own in it, so that what the
// compile of one left is never found under the name of another:
//
//	DIGEST.ENGINE.REWRITER/rewritten.wasm         what workers are sent
//	DIGEST.ENGINE.REWRITER/wazero-VERSION/KEY     its code, as wazero keeps it
type cache struct {
	dir  string
	most int64 // bytes
	uid  int   // who may read it besides, and leads a group of the same number; 0: nobody

	mu       sync.Mutex
	loaded   map[*process][]string // entries that workers have
	size     int64                 // bytes of all entries at the most; negative: they have not been added up yet
	replaced string                // the entry that made way for another last; "": none. Somebody may just be opening it
}

// Prefixes of what a crash may leave behind.
const (
	installing = "new-"
	removing   = "old-"
	compiling  = "compile-"
)

// openCache makes the directory, and empties it of what another engine or
// rewriter made and of what a crash left: nothing of it would be found again. What
// cannot be removed or opened, because the server ran as another user once, stays,
// and log says so; it is never used, and takes nobody's name.
func openCache(dir string, most int64, uid int, log *slog.Logger) (*cache, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("make module cache: %w", err)
	}
	c := &cache{dir: dir, most: most, uid: uid, size: -1, loaded: map[*process][]string{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make module cache: %w", err)
	}
	if err := c.open(dir); err != nil {
		return nil, fmt.Errorf("open module cache to the sandbox's user: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read module cache (the server's user must own it): %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(e.Name(), entrySuffix()) {
			err := c.openAll(path) // the user may have changed
			if err == nil {
				_, err = findCode(path)
			}
			if err == nil {
				continue
			}
		}
		if err := c.remove(path); err != nil {
			log.Warn("something in the module cache cannot be removed, and takes room for nothing; remove it as the user that it belongs to", "error", err)
		}
	}
	return c, nil
}

// remove removes an entry, a room, or what a crash left of them. For who comes by
// its name it is gone at once, and whole. A child that was the server's own user
// may have left directories that nobody may look into.
func (c *cache) remove(path string) error {
	if name := filepath.Base(path); !strings.HasPrefix(name, removing) {
		aside, err := os.MkdirTemp(c.dir, removing)
		if err != nil {
			return err
		}
		if err := os.Rename(path, aside); errors.Is(err, fs.ErrNotExist) {
			return os.Remove(aside)
		} else if err != nil { // it is no directory, or another user's and not to be moved
			os.Remove(aside)
		} else {
			path = aside
		}
	}
	if os.RemoveAll(path) == nil {
		return nil
	}
	filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // RemoveAll says it again
		}
		os.Chmod(path, 0o700)
		return nil
	})
	return os.RemoveAll(path)
}

// open lets children read a file, or find what they know the name of in a
// directory. Where they are of the server's own user they may already.
func (c *cache) open(path string) error {
	if c.uid == 0 {
		return nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o640)
	if info.IsDir() {
		mode = 0o710
	}
	if err := os.Lchown(path, -1, c.uid); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// openAll opens all that is below a path, and then it.
func (c *cache) openAll(path string) error {
	if c.uid == 0 {
		return nil
	}
	return filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return c.open(path)
	})
}

func entrySuffix() string { return "." + engineName() + "." + wasm.RewriterVersion }

// entry is the name of a module's directory. It names the engine and the
// rewriter: the code is for one version on one kind of machine, under one table
// of costs.
func entry(digest string) string { return strings.ReplaceAll(digest, ":", "-") + entrySuffix() }

const rewrittenName = "rewritten.wasm"

// has reports whether a module has an entry.
func (c *cache) has(digest string) bool {
	_, err := os.Stat(filepath.Join(c.dir, entry(digest), rewrittenName))
	return err == nil
}

// read returns a rewritten module, and notes that it is used. errStale when its
// code is not beside it; the reason is left out, because it names a path and a
// tenant may see it.
func (c *cache) read(digest string) ([]byte, error) {
	dir := filepath.Join(c.dir, entry(digest))
	if _, err := findCode(dir); err != nil {
		return nil, errStale
	}
	module, err := os.ReadFile(filepath.Join(dir, rewrittenName))
	if err != nil {
		return nil, errStale
	}
	now := time.Now()
	os.Chtimes(dir, now, now) // it is only the order in which entries go
	return module, nil
}

// drop removes a module's entry, whose code is of no use.
func (c *cache) drop(digest string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.remove(filepath.Join(c.dir, entry(digest)))
}

// What wazero calls its directory and its files.
var (
	codeDir  = regexp.MustCompile(`^wazero-[0-9A-Za-z._+()-]{1,100}$`)
	codeFile = regexp.MustCompile(`^([0-9a-f]{64})(\.[0-9]+\.tmp)?$`) // the latter until it is whole
)

// findCode returns the path, below dir, of the one file of code there.
func findCode(dir string) (string, error) {
	var found []string
	dirs, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, d := range dirs {
		if !d.IsDir() || !codeDir.MatchString(d.Name()) {
			continue
		}
		files, err := os.ReadDir(filepath.Join(dir, d.Name()))
		if err != nil {
			return "", err
		}
		for _, f := range files {
			if f.Type().IsRegular() && codeFile.MatchString(f.Name()) {
				found = append(found, filepath.Join(d.Name(), f.Name()))
			}
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d files of code, not one", len(found))
	}
	return found[0], nil
}

// room makes a directory for what one compile child writes.
func (c *cache) room() (string, error) {
	dir, err := os.MkdirTemp(c.dir, compiling)
	if err != nil {
		return "", fmt.Errorf("make room for a compile: %w", err)
	}
	if c.uid != 0 {
		if err := os.Chown(dir, c.uid, c.uid); err != nil {
			return "", errors.Join(fmt.Errorf("make room for a compile: %w", err), os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// maxNames is how many files and directories may be in a room: an honest compile
// makes one of each.
const maxNames = 8

// roomSize adds up what is in a room, and tells whether a compile may have left so
// much. What cannot be measured does not fit.
func roomSize(dir string) (size int64, fits bool) {
	names := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has just got another name
		}
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		size += info.Size()
		if names++; names > maxNames || size > maxCompiled {
			return fs.SkipAll
		}
		return nil
	})
	return size, err == nil && names <= maxNames && size <= maxCompiled
}

// install makes a module's entry, whole or not at all, of its rewritten form
// and what a compile child left in room. The child is gone by now; what it left
// is not trusted: one regular file, of wazero's name and within the bound, is
// copied, and nothing followed.
func (c *cache) install(digest string, rewritten []byte, room string) error {
	code, err := findCode(room)
	if err != nil {
		return fmt.Errorf("find what the compile left: %w", err)
	}
	made, err := os.MkdirTemp(c.dir, installing)
	if err != nil {
		return err
	}
	installed := false
	defer func() {
		if !installed {
			os.RemoveAll(made)
		}
	}()
	if err := os.WriteFile(filepath.Join(made, rewrittenName), rewritten, 0o600); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(made, filepath.Dir(code)), 0o700); err != nil {
		return err
	}
	name := codeFile.ReplaceAllString(filepath.Base(code), "$1")
	if err := copyCode(filepath.Join(made, filepath.Dir(code), name), room, code); err != nil {
		return fmt.Errorf("take over what the compile left: %w", err)
	}
	if err := c.openAll(made); err != nil {
		return err
	}
	size, err := sizeOf(made)
	if err != nil {
		return err
	}
	to := filepath.Join(c.dir, entry(digest))
	c.mu.Lock()
	defer c.mu.Unlock()
	swapped, err := swap(made, to)
	if err != nil {
		return err
	}
	installed = true
	if swapped {
		made, c.replaced = c.replaced, made
		os.RemoveAll(made)
	}
	return c.bound(entry(digest), size)
}

// swap gives a new directory its name, and the one that had it the new one's, at
// once: who opens code of the module finds either, and never none.
func swap(made, to string) (swapped bool, err error) {
	err = unix.Renameat2(unix.AT_FDCWD, made, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT): // nothing has the name
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EXDEV):
		// This file system cannot. Between two steps the module has no entry, and
		// whoever asks has it compiled.
		if err := os.RemoveAll(to); err != nil {
			return false, err
		}
	default:
		return false, &os.LinkError{Op: "exchange", Old: made, New: to, Err: err}
	}
	return false, os.Rename(made, to)
}

// copyCode copies a file that a child made, and nothing that only looks like one.
func copyCode(to, room, name string) error {
	root, err := os.OpenRoot(room)
	if err != nil {
		return err
	}
	defer root.Close()
	from, err := root.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 || info.Size() > maxCompiled {
		return fmt.Errorf("%s of %d bytes, not a file of 1 to %d", info.Mode().Type(), info.Size(), maxCompiled)
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, io.LimitReader(from, maxCompiled))
	return errors.Join(err, f.Close())
}

// bound removes the entries least lately loaded until the rest fit, but none
// that a worker has, and not the one that was just made, of so many bytes. Where
// all would fit even if nothing had gone since they were added up last, they are
// not added up again: that takes a second where there are ten thousand. The caller
// holds mu.
func (c *cache) bound(made string, size int64) error {
	if c.size >= 0 {
		if c.size += size; c.size <= c.most {
			return nil
		}
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	type used struct {
		name  string
		bytes int64
		at    time.Time
	}
	var all []used
	total := int64(0)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), entrySuffix()) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		u := used{name: e.Name(), at: info.ModTime()}
		if u.bytes, err = sizeOf(filepath.Join(c.dir, e.Name())); err != nil {
			return err
		}
		total += u.bytes
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b used) int { return a.at.Compare(b.at) })
	for _, u := range all {
		if total <= c.most {
			break
		}
		if u.name == made || c.isLoaded(u.name) {
			continue
		}
		if err := c.remove(filepath.Join(c.dir, u.name)); err != nil {
			return err
		}
		total -= u.bytes
	}
	c.size = total
	return nil
}

// sizeOf adds up the files below a directory.
func sizeOf(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

// isLoaded reports whether a worker has an entry. The caller holds mu.
func (c *cache) isLoaded(name string) bool {
	for _, names := range c.loaded {
		if slices.Contains(names, name) {
			return true
		}
	}
	return false
}

// holds notes which modules a worker has, or is about to have.
func (c *cache) holds(child *process, digests []string) {
	names := make([]string, len(digests))
	for i, digest := range digests {
		names[i] = entry(digest)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-child.gone: // and forgotten
	default:
		c.loaded[child] = names
	}
}

// gone forgets a worker.
func (c *cache) gone(child *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.loaded, child)
}
