package plugins

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// Dir keeps modules in a directory, for one process: in tests, and wherever
// verifiers are tried without a server.
type Dir struct {
	path    string
	mu      sync.Mutex
	written chan struct{} // closed, and replaced, at each write
}

// NewDir returns Artifacts in a directory, which it makes when it is not there.
func NewDir(path string) (*Dir, error) {
	for _, sub := range []string{"modules", "tenants"} {
		if err := os.MkdirAll(filepath.Join(path, sub), 0o700); err != nil {
			return nil, fmt.Errorf("make artifact directory: %w", err)
		}
	}
	return &Dir{path: path, written: make(chan struct{})}, nil
}

// shelf is what a tenant has, as its file says it.
type shelf struct {
	Last     int       `json:"last"` // number given out last; numbers are not used twice
	Revision int64     `json:"revision"`
	Pointer  Pointer   `json:"pointer"`
	Versions []Version `json:"versions"`
}

func (d *Dir) modulePath(digest string) string {
	return filepath.Join(d.path, "modules", strings.ReplaceAll(digest, ":", "-"))
}

func (d *Dir) shelfPath(tenant string) string {
	return filepath.Join(d.path, "tenants", tenant+".json")
}

func (d *Dir) load(tenant string) (shelf, error) {
	var s shelf
	text, err := os.ReadFile(d.shelfPath(tenant))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return s, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return s, nil
}

// save replaces a tenant's file as a whole.
func (d *Dir) save(tenant string, s shelf) error {
	s.Revision++
	text, err := json.Marshal(s)
	if err == nil {
		err = replaceFile(d.shelfPath(tenant), text)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	close(d.written)
	d.written = make(chan struct{})
	return nil
}

func replaceFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(content); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// Add implements Artifacts.
func (d *Dir) Add(ctx context.Context, tenant string, v Version, module []byte) (int, error) {
	if ctx.Err() != nil {
		return 0, ErrUnavailable
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.load(tenant)
	if err != nil {
		return 0, err
	}
	if err := replaceFile(d.modulePath(v.Digest), module); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	s.Last++
	v.Number = s.Last
	s.Versions = append(s.Versions, v)
	return v.Number, d.save(tenant, s)
}

// Versions implements Artifacts.
func (d *Dir) Versions(ctx context.Context, tenant string) ([]Version, error) {
	if ctx.Err() != nil {
		return nil, ErrUnavailable
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.load(tenant)
	return s.Versions, err
}

// Version implements Artifacts.
func (d *Dir) Version(ctx context.Context, tenant string, number int) (Version, error) {
	versions, err := d.Versions(ctx, tenant)
	if err != nil {
		return Version{}, err
	}
	return find(versions, number)
}

// ActiveVersion implements Artifacts.
func (d *Dir) ActiveVersion(ctx context.Context, tenant string) (Version, error) {
	if ctx.Err() != nil {
		return Version{}, ErrUnavailable
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.load(tenant)
	if err != nil {
		return Version{}, err
	}
	return find(s.Versions, s.Pointer.Active)
}

// Module implements Artifacts.
func (d *Dir) Module(ctx context.Context, digest string) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ErrUnavailable
	}
	module, err := os.ReadFile(d.modulePath(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return module, nil
}

// Active implements Artifacts.
func (d *Dir) Active(ctx context.Context, tenant string) (Pointer, error) {
	if ctx.Err() != nil {
		return Pointer{}, ErrUnavailable
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.load(tenant)
	s.Pointer.Revision = s.Revision
	return s.Pointer, err
}

// SetActive implements Artifacts.
func (d *Dir) SetActive(ctx context.Context, tenant string, from, to Pointer, changed []Version) error {
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.load(tenant)
	if err != nil {
		return err
	}
	s.Pointer.Revision, from.Revision, to.Revision = 0, 0, 0
	if _, err := find(s.Versions, to.Active); err != nil || s.Pointer != from {
		return fmt.Errorf("%w: another activation came first", ErrConflict)
	}
	s.Pointer = to
	for _, v := range changed {
		for i := range s.Versions {
			if s.Versions[i].Number == v.Number {
				s.Versions[i] = v
			}
		}
	}
	return d.save(tenant, s)
}

// Watch implements Artifacts.
func (d *Dir) Watch(ctx context.Context, seen func(tenant string, v Version)) error {
	known := map[string][]Version{}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		shelves, written, err := d.all()
		if err != nil {
			return err
		}
		for tenant, versions := range shelves {
			for _, v := range versions {
				same := func(other Version) bool { return reflect.DeepEqual(v, other) }
				if !slices.ContainsFunc(known[tenant], same) {
					seen(tenant, v)
				}
			}
		}
		known = shelves
		select {
		case <-written:
		case <-ctx.Done():
		}
	}
}

// all is every tenant's versions, and what is closed at the next write.
func (d *Dir) all() (map[string][]Version, chan struct{}, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	paths, err := filepath.Glob(d.shelfPath("*"))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	all := map[string][]Version{}
	for _, path := range paths {
		tenant := strings.TrimSuffix(filepath.Base(path), ".json")
		s, err := d.load(tenant)
		if err != nil {
			return nil, nil, err
		}
		all[tenant] = s.Versions
	}
	return all, d.written, nil
}

// Remove implements Artifacts.
func (d *Dir) Remove(ctx context.Context, tenant string, number int) error {
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.load(tenant)
	if err != nil {
		return err
	}
	if s.Pointer.Active == number {
		return fmt.Errorf("%w: version %d is active", ErrConflict, number)
	}
	v, err := find(s.Versions, number)
	if err != nil {
		return nil
	}
	s.Versions = slices.DeleteFunc(s.Versions, func(other Version) bool { return other.Number == number })
	if err := d.save(tenant, s); err != nil {
		return err
	}
	return d.collect(v.Digest)
}

// RemoveTenant implements Artifacts.
func (d *Dir) RemoveTenant(ctx context.Context, tenant string) error {
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.load(tenant)
	if err != nil {
		return err
	}
	if err := os.Remove(d.shelfPath(tenant)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for _, v := range s.Versions {
		if err := d.collect(v.Digest); err != nil {
			return err
		}
	}
	return nil
}

// collect removes a module that no version of anybody is made of.
func (d *Dir) collect(digest string) error {
	shelves, err := filepath.Glob(filepath.Join(d.path, "tenants", "*.json"))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for _, path := range shelves {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if bytes.Contains(text, []byte(digest)) {
			return nil
		}
	}
	if err := os.Remove(d.modulePath(digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}
