package cluster

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/encoding/protodelim"
)

// A backup is a list of etcd's own key-values, each with its length before it
// (protodelim), at one revision and in the order of their keys. One without a key
// stands before them, with a backupHead as its value, and one behind them, with
// Contents: what has no end is no backup.
const backupFormat = 1

type backupHead struct {
	Format   int       `json:"doorward_backup"`
	Revision int64     `json:"revision"`
	MadeAt   time.Time `json:"made_at"`
}

// Contents say what a backup holds.
type Contents struct {
	Revision int64     `json:"revision"` // that all keys are at
	MadeAt   time.Time `json:"made_at"`
	Keys     int64     `json:"keys"`
	Bytes    int64     `json:"bytes"` // of keys and values

	// Leases have the seconds that each lease had left when its keys had been read.
	Leases map[int64]int64 `json:"leases"`
}

var (
	// ErrBackup: what was read is no whole backup.
	ErrBackup = errors.New("not a whole backup")
	// ErrNotEmpty: there are keys already where a backup was to be restored.
	ErrNotEmpty = errors.New("the store is not empty")
	// ErrInterrupted: a restore into this store has begun and not ended.
	ErrInterrupted = errors.New("a restore into this store was interrupted")
)

const (
	pageKeys    = 500      // read at once
	maxEntry    = 16 << 20 // more than etcd takes in one request
	batchKeys   = 100      // written at once: another's etcd takes 128 operations
	batchBytes  = 1 << 20  // and 1.5 MiB
	restoringAt = "restoring"
)

// Backup writes all keys under prefix, as they are at one revision, to w. What
// etcd compacts away meanwhile is lost to it: write to something fast.
func Backup(ctx context.Context, client *clientv3.Client, prefix string, w io.Writer) (Contents, error) {
	now, err := client.Get(ctx, prefix, clientv3.WithCountOnly())
	if err != nil {
		return Contents{}, fmt.Errorf("read the store's revision: %w", err)
	}
	c := Contents{Revision: now.Header.Revision, MadeAt: time.Now().UTC(), Leases: map[int64]int64{}}
	out := bufio.NewWriterSize(w, 1<<16)
	if err := writeNote(out, backupHead{backupFormat, c.Revision, c.MadeAt}); err != nil {
		return Contents{}, err
	}
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		page, err := client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(c.Revision), clientv3.WithLimit(pageKeys))
		if errors.Is(err, rpctypes.ErrCompacted) {
			return Contents{}, fmt.Errorf("the store has forgotten revision %d before all of it was read; try again, on a faster disk or when less is written", c.Revision)
		}
		if err != nil {
			return Contents{}, fmt.Errorf("read the store: %w", err)
		}
		for _, kv := range page.Kvs {
			if _, err := protodelim.MarshalTo(out, kv); err != nil {
				return Contents{}, fmt.Errorf("write backup: %w", err)
			}
			c.Keys++
			c.Bytes += int64(len(kv.Key) + len(kv.Value))
			if kv.Lease != 0 {
				c.Leases[kv.Lease] = 0
			}
		}
		if !page.More || len(page.Kvs) == 0 {
			break
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	for lease := range c.Leases {
		left, err := client.TimeToLive(ctx, clientv3.LeaseID(lease))
		if err != nil {
			return Contents{}, fmt.Errorf("read how long a lease lasts: %w", err)
		}
		c.Leases[lease] = max(left.TTL, 0) // -1: it has ended since
	}
	if err := writeNote(out, c); err != nil {
		return Contents{}, err
	}
	if err := out.Flush(); err != nil {
		return Contents{}, fmt.Errorf("write backup: %w", err)
	}
	return c, nil
}

func writeNote(w io.Writer, note any) error {
	text, err := json.Marshal(note)
	if err != nil {
		return fmt.Errorf("encode backup: %w", err)
	}
	if _, err := protodelim.MarshalTo(w, &mvccpb.KeyValue{Value: text}); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// ReadBackup hands every key-value of a backup to each, whose error ends it, and
// says what it held. ErrBackup when it is not one, is cut off, or goes on behind
// its end.
func ReadBackup(r io.Reader, each func(*mvccpb.KeyValue) error) (Contents, error) {
	in := bufio.NewReaderSize(r, 1<<16)
	var head backupHead
	first, err := readEntry(in)
	if err != nil {
		return Contents{}, err
	}
	if len(first.Key) > 0 || json.Unmarshal(first.Value, &head) != nil || head.Format == 0 {
		return Contents{}, fmt.Errorf("%w: it does not begin as one", ErrBackup)
	}
	if head.Format != backupFormat {
		return Contents{}, fmt.Errorf("%w for this version: its format is %d, and %d is known; restore it with the doorward that made it, or a later one", ErrBackup, head.Format, backupFormat)
	}
	var keys, size int64
	var last []byte
	for {
		kv, err := readEntry(in)
		if err != nil {
			return Contents{}, err
		}
		if len(kv.Key) == 0 {
			var c Contents
			if json.Unmarshal(kv.Value, &c) != nil || c.Keys != keys || c.Bytes != size || c.Revision != head.Revision {
				return Contents{}, fmt.Errorf("%w: its end does not fit what came before", ErrBackup)
			}
			if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
				return Contents{}, errors.Join(fmt.Errorf("%w: something stands behind its end", ErrBackup), err)
			}
			return c, nil
		}
		if bytes.Compare(last, kv.Key) >= 0 {
			return Contents{}, fmt.Errorf("%w: its keys are out of order", ErrBackup)
		}
		last = kv.Key
		keys++
		size += int64(len(kv.Key) + len(kv.Value))
		if err := each(kv); err != nil {
			return Contents{}, err
		}
	}
}

func readEntry(in *bufio.Reader) (*mvccpb.KeyValue, error) {
	kv := new(mvccpb.KeyValue)
	err := protodelim.UnmarshalOptions{MaxSize: maxEntry}.UnmarshalFrom(in, kv)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%w: it ends before its end", ErrBackup)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return kv, nil
}

// Restoration says what of a backup is restored, and how.
type Restoration struct {
	Prefix string // that the backup was made of

	// Skip reports keys that are left out; nil: none.
	Skip func(key string) bool

	// Aged reports keys whose revisions count beside those of others: they are held
	// in memory and written in the order of the revision that it gives. One that is
	// a border is in no transaction with another, so that what was before it is
	// before it again. nil: none, and keys are written in the order of their names.
	Aged func(kv *mvccpb.KeyValue) (revision int64, border, is bool)
}

// Restore writes a backup into a store that has no key under r.Prefix, or that
// another Restore has left half written. open opens the backup anew each time: it
// is read to its end before anything is written. What was on a lease gets one of
// what that had left. The store is marked until done, which gets the context and
// is called last, has returned nil: see Interrupted.
func Restore(ctx context.Context, client *clientv3.Client, r Restoration, open func() (io.ReadCloser, error), done func(context.Context) error) (Contents, error) {
	read := func(each func(*mvccpb.KeyValue) error) (Contents, error) {
		file, err := open()
		if err != nil {
			return Contents{}, err
		}
		defer file.Close()
		return ReadBackup(file, each)
	}
	c, err := read(func(kv *mvccpb.KeyValue) error {
		if !bytes.HasPrefix(kv.Key, []byte(r.Prefix)) {
			return fmt.Errorf("%w: it holds a key that is not under %s", ErrBackup, r.Prefix)
		}
		return nil
	})
	if err != nil {
		return Contents{}, err
	}
	if err := r.claim(ctx, client); err != nil {
		return Contents{}, err
	}
	w := &restorer{client: client, left: c.Leases, leases: map[int64]clientv3.LeaseID{}}
	var aged []age
	if _, err := read(func(kv *mvccpb.KeyValue) error {
		if string(kv.Key) == r.Prefix+restoringAt || r.Skip != nil && r.Skip(string(kv.Key)) {
			return nil
		}
		if r.Aged != nil {
			if revision, border, is := r.Aged(kv); is {
				aged = append(aged, age{revision, border, kv})
				return nil
			}
		}
		return w.put(ctx, kv)
	}); err != nil {
		return Contents{}, err
	}
	slices.SortStableFunc(aged, func(a, b age) int { return cmp.Compare(a.revision, b.revision) })
	for i, a := range aged {
		if a.border || i > 0 && aged[i-1].border {
			if err := w.flush(ctx); err != nil {
				return Contents{}, err
			}
		}
		if err := w.put(ctx, a.kv); err != nil {
			return Contents{}, err
		}
	}
	if err := w.flush(ctx); err != nil {
		return Contents{}, err
	}
	if err := done(ctx); err != nil {
		return Contents{}, err
	}
	if _, err := client.Delete(ctx, r.Prefix+restoringAt); err != nil {
		return Contents{}, fmt.Errorf("end the restore: %w", err)
	}
	return c, nil
}

// age is a key-value that is to be written in its turn.
type age struct {
	revision int64
	border   bool
	kv       *mvccpb.KeyValue
}

// Interrupted is ErrInterrupted where a Restore into prefix has not ended.
func Interrupted(ctx context.Context, client *clientv3.Client, prefix string) error {
	got, err := client.Get(ctx, prefix+restoringAt, clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("read whether a restore was interrupted: %w", err)
	}
	if got.Count > 0 {
		return ErrInterrupted
	}
	return nil
}

// claim marks an empty store as being restored into. One that is marked already
// is emptied.
func (r Restoration) claim(ctx context.Context, client *clientv3.Client) error {
	end := clientv3.GetPrefixRangeEnd(r.Prefix)
	mark := r.Prefix + restoringAt
	got, err := client.Get(ctx, r.Prefix, clientv3.WithRange(end), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("look whether the store is empty: %w", err)
	}
	if got.Count == 0 {
		if _, err := client.Put(ctx, mark, time.Now().UTC().Format(time.RFC3339)); err != nil {
			return fmt.Errorf("begin the restore: %w", err)
		}
		return nil
	}
	if err := Interrupted(ctx, client, r.Prefix); !errors.Is(err, ErrInterrupted) {
		return cmp.Or(err, fmt.Errorf("%w: it holds %d keys", ErrNotEmpty, got.Count))
	}
	// Around the mark: it stands until all is there.
	for _, rest := range [][2]string{{r.Prefix, mark}, {mark + "\x00", end}} {
		if _, err := client.Delete(ctx, rest[0], clientv3.WithRange(rest[1])); err != nil {
			return fmt.Errorf("remove what an interrupted restore has left: %w", err)
		}
	}
	return nil
}

// restorer writes key-values in batches.
type restorer struct {
	client *clientv3.Client
	left   map[int64]int64 // seconds, by the id that a lease had
	leases map[int64]clientv3.LeaseID

	batch []clientv3.Op
	size  int
}

func (w *restorer) put(ctx context.Context, kv *mvccpb.KeyValue) error {
	var options []clientv3.OpOption
	if kv.Lease != 0 {
		if w.left[kv.Lease] == 0 {
			return nil // over
		}
		lease, err := w.lease(ctx, kv.Lease)
		if err != nil {
			return err
		}
		options = append(options, clientv3.WithLease(lease))
	}
	size := len(kv.Key) + len(kv.Value)
	if len(w.batch) > 0 && w.size+size > batchBytes || len(w.batch) == batchKeys {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	w.batch = append(w.batch, clientv3.OpPut(string(kv.Key), string(kv.Value), options...))
	w.size += size
	return nil
}

// lease is the new lease in an old one's place.
func (w *restorer) lease(ctx context.Context, old int64) (clientv3.LeaseID, error) {
	if id, ok := w.leases[old]; ok {
		return id, nil
	}
	granted, err := w.client.Grant(ctx, w.left[old])
	if err != nil {
		return 0, fmt.Errorf("grant lease: %w", err)
	}
	w.leases[old] = granted.ID
	return granted.ID, nil
}

func (w *restorer) flush(ctx context.Context) error {
	if len(w.batch) == 0 {
		return nil
	}
	if _, err := w.client.Txn(ctx).Then(w.batch...).Commit(); err != nil {
		return fmt.Errorf("write to the store: %w", err)
	}
	w.batch, w.size = w.batch[:0], 0
	return nil
}
