package etcd

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/plugins"
)

const (
	blobPrefix    = "/dw/p/blob/"
	refPrefix     = "/dw/p/ref/"
	versionPrefix = "/dw/p/ver/"
	seqPrefix     = "/dw/p/seq/"
	activePrefix  = "/dw/p/active/"
	sizePrefix    = "/dw/p/size/"

	pieceSize = 1 << 20          // etcd takes requests of 1.5 MiB
	markTime  = 10 * time.Minute // an upload that takes longer is given up
	callTime  = 5 * time.Second
	loginTime = time.Second // of a read that every login waits for: without a majority it takes all of it
	maxModule = 17 << 20    // what a module may unpack to: more is not one of ours
	pageSize  = 500         // keys of one read
)

// Artifacts is a plugins.Artifacts in etcd.
type Artifacts struct {
	client *clientv3.Client
	limit  int64
}

// New returns Artifacts on client that keep modules of limit bytes in all, as
// they are stored: compressed, and each once; 0: 1 GiB, a quarter of a database
// of 4 GiB. The client stays the caller's.
func New(client *clientv3.Client, limit int64) *Artifacts {
	return &Artifacts{client, cmp.Or(limit, 1<<30)}
}

// meta tells that all pieces of a module are there.
type meta struct {
	Pieces int `json:"pieces"`
	Size   int `json:"size"`
	Packed int `json:"packed,omitempty"` // bytes of the pieces
}

func metaKey(digest string) string         { return blobPrefix + digest + "/meta" }
func pieceKey(digest string, n int) string { return fmt.Sprintf("%s%s/%04d", blobPrefix, digest, n) }
func refKey(digest, tenant string, n int) string {
	return fmt.Sprintf("%s%s/%s/%08d", refPrefix, digest, tenant, n)
}
func versionKey(tenant string, n int) string {
	return fmt.Sprintf("%s%s/%08d", versionPrefix, tenant, n)
}

// Add implements plugins.Artifacts.
func (a *Artifacts) Add(ctx context.Context, tenant string, v plugins.Version, module []byte) (int, error) {
	mark, err := a.mark(ctx, v.Digest)
	if err != nil {
		return 0, err
	}
	m, err := a.write(ctx, v.Digest, module)
	if err != nil {
		return 0, err
	}
	for {
		last, revision, err := a.last(ctx, tenant)
		if err != nil {
			return 0, err
		}
		v.Number = last + 1
		done, err := a.commit(ctx,
			[]clientv3.Cmp{
				clientv3.Compare(clientv3.ModRevision(seqPrefix+tenant), "=", revision),
				clientv3.Compare(clientv3.CreateRevision(mark), ">", 0),
			},
			clientv3.OpPut(seqPrefix+tenant, strconv.Itoa(v.Number)),
			clientv3.OpPut(metaKey(v.Digest), encode(m)),
			clientv3.OpPut(sizePrefix+v.Digest, strconv.Itoa(m.Packed)),
			clientv3.OpPut(refKey(v.Digest, tenant, v.Number), ""),
			clientv3.OpPut(versionKey(tenant, v.Number), encode(v)),
			clientv3.OpDelete(mark),
		)
		if err != nil {
			return 0, fmt.Errorf("store version: %w", err)
		}
		if done.Succeeded {
			return v.Number, nil
		}
		// Without the mark the pieces may have been collected since: a process that
		// was stopped for longer than a mark lives must not say that they are there.
		if still, err := a.get(ctx, mark, clientv3.WithCountOnly()); err != nil || still.Count == 0 {
			return 0, errors.Join(err, fmt.Errorf("%w: the upload took longer than %v", plugins.ErrUnavailable, markTime))
		}
	}
}

// mark refers to a module before it is there, for a while.
func (a *Artifacts) mark(ctx context.Context, digest string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	lease, err := a.client.Grant(ctx, int64(markTime/time.Second))
	if err != nil {
		return "", unavailable(err)
	}
	key := refPrefix + digest + "/adding/" + rand.Text()
	if _, err := a.client.Put(ctx, key, "", clientv3.WithLease(lease.ID)); err != nil {
		return "", unavailable(err)
	}
	return key, nil
}

// write puts the pieces of a module, unless they are there.
func (a *Artifacts) write(ctx context.Context, digest string, module []byte) (meta, error) {
	m, err := a.meta(ctx, digest)
	if err == nil || !errors.Is(err, plugins.ErrNotFound) {
		return m, err
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return m, fmt.Errorf("compress module: %w", err)
	}
	packed := encoder.EncodeAll(module, nil)
	m = meta{Size: len(module), Packed: len(packed)}
	if err := a.room(ctx, m.Packed); err != nil {
		return m, err
	}
	for ; len(packed) > 0; m.Pieces++ {
		piece := packed[:min(pieceSize, len(packed))]
		packed = packed[len(piece):]
		if _, err := a.commit(ctx, nil, clientv3.OpPut(pieceKey(digest, m.Pieces), string(piece))); err != nil {
			return m, fmt.Errorf("store module: %w", err)
		}
	}
	return m, nil
}

// room refuses a module that there is no room for. Uploads at the same moment
// may each find the same room: they are few, and it is not the database's last.
func (a *Artifacts) room(ctx context.Context, packed int) error {
	total := int64(packed)
	err := a.each(ctx, sizePrefix, func(kv *mvccpb.KeyValue) error {
		n, err := strconv.ParseInt(string(kv.Value), 10, 64)
		total += n
		return err
	})
	if err != nil {
		return fmt.Errorf("count stored modules: %w", err)
	}
	if total > a.limit {
		return fmt.Errorf("%w: modules of all tenants would take %d KiB of %d in the store", plugins.ErrQuota, total>>10, a.limit>>10)
	}
	return nil
}

// each calls see with every key under a prefix, as all are at one moment.
func (a *Artifacts) each(ctx context.Context, prefix string, see func(*mvccpb.KeyValue) error) error {
	_, err := a.eachAt(ctx, prefix, see)
	return err
}

// eachAt is each, and tells the moment's revision.
func (a *Artifacts) eachAt(ctx context.Context, prefix string, see func(*mvccpb.KeyValue) error) (int64, error) {
	from, end, revision := prefix, clientv3.GetPrefixRangeEnd(prefix), int64(0)
	for {
		got, err := a.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			return 0, err
		}
		if revision == 0 {
			revision = got.Header.Revision
		}
		for _, kv := range got.Kvs {
			if err := see(kv); err != nil {
				return 0, fmt.Errorf("decode %s: %w", kv.Key, err)
			}
		}
		if !got.More {
			return revision, nil
		}
		from = string(got.Kvs[len(got.Kvs)-1].Key) + "\x00"
	}
}

// Watch implements plugins.Artifacts.
func (a *Artifacts) Watch(ctx context.Context, seen func(tenant string, v plugins.Version)) error {
	see := func(kv *mvccpb.KeyValue) error {
		var v plugins.Version
		tenant, _, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), versionPrefix), "/")
		err := json.Unmarshal(kv.Value, &v)
		if err == nil {
			seen(tenant, v)
		}
		return err
	}
	revision, err := a.eachAt(ctx, versionPrefix, see)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("list versions of all tenants: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := a.client.Watch(clientv3.WithRequireLeader(ctx), versionPrefix, clientv3.WithPrefix(),
		clientv3.WithRev(revision+1), clientv3.WithFilterDelete())
	for answer := range stream {
		if ctx.Err() != nil {
			break
		}
		if err := answer.Err(); err != nil {
			return fmt.Errorf("watch versions: %w", unavailable(err))
		}
		for _, event := range answer.Events {
			if err := see(event.Kv); err != nil {
				return fmt.Errorf("decode %s: %w", event.Kv.Key, err)
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("watch versions: %w: the stream ended", plugins.ErrUnavailable)
}

func (a *Artifacts) meta(ctx context.Context, digest string) (m meta, err error) {
	got, err := a.get(ctx, metaKey(digest))
	if err != nil {
		return m, err
	}
	if len(got.Kvs) == 0 {
		return m, plugins.ErrNotFound
	}
	return m, json.Unmarshal(got.Kvs[0].Value, &m)
}

// last is the version number given out last, and the revision it is at.
func (a *Artifacts) last(ctx context.Context, tenant string) (n int, revision int64, err error) {
	got, err := a.get(ctx, seqPrefix+tenant)
	if err != nil || len(got.Kvs) == 0 {
		return 0, 0, err
	}
	n, err = strconv.Atoi(string(got.Kvs[0].Value))
	return n, got.Kvs[0].ModRevision, err
}

// Versions implements plugins.Artifacts.
func (a *Artifacts) Versions(ctx context.Context, tenant string) ([]plugins.Version, error) {
	got, err := a.get(ctx, versionPrefix+tenant+"/", clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	var list []plugins.Version
	for _, kv := range got.Kvs {
		var v plugins.Version
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return nil, fmt.Errorf("decode %s: %w", kv.Key, err)
		}
		list = append(list, v)
	}
	return list, nil
}

// Module implements plugins.Artifacts. What comes back has the digest that was
// asked for, or it does not come back.
func (a *Artifacts) Module(ctx context.Context, digest string) ([]byte, error) {
	m, err := a.meta(ctx, digest)
	if err != nil {
		return nil, err
	}
	var packed []byte
	for n := range m.Pieces {
		got, err := a.get(ctx, pieceKey(digest, n))
		if err != nil {
			return nil, err
		}
		if len(got.Kvs) == 0 {
			return nil, fmt.Errorf("%w: piece %d of module %s is missing", plugins.ErrUnavailable, n, digest)
		}
		packed = append(packed, got.Kvs[0].Value...)
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule))
	if err != nil {
		return nil, fmt.Errorf("unpack module: %w", err)
	}
	defer decoder.Close()
	module, err := decoder.DecodeAll(packed, nil)
	if err != nil || fmt.Sprintf("sha256:%x", sha256.Sum256(module)) != digest {
		return nil, fmt.Errorf("%w: module %s is damaged in the store", plugins.ErrUnavailable, digest)
	}
	return module, nil
}

// Version implements plugins.Artifacts.
func (a *Artifacts) Version(ctx context.Context, tenant string, number int) (v plugins.Version, err error) {
	got, err := a.get(ctx, versionKey(tenant, number))
	if err != nil {
		return v, err
	}
	if len(got.Kvs) == 0 {
		return v, plugins.ErrNotFound
	}
	if err := json.Unmarshal(got.Kvs[0].Value, &v); err != nil {
		return v, fmt.Errorf("decode %s: %w", got.Kvs[0].Key, err)
	}
	return v, nil
}

// pointed is the pointer with a copy of the version it points to, so that a
// login reads one key. A version that is active is written by SetActive alone,
// which writes both, so the copy is never another than the version, but for the
// manifest that it leaves out.
type pointed struct {
	plugins.Pointer
	Version *plugins.Version `json:"version,omitempty"` // nil in what was written before there were copies
}

func (a *Artifacts) pointed(ctx context.Context, tenant string) (p pointed, err error) {
	got, err := a.get(ctx, activePrefix+tenant)
	if err != nil || len(got.Kvs) == 0 {
		return p, err
	}
	if err := json.Unmarshal(got.Kvs[0].Value, &p); err != nil {
		return p, fmt.Errorf("decode %s: %w", got.Kvs[0].Key, err)
	}
	p.Revision = got.Kvs[0].ModRevision
	return p, nil
}

// Active implements plugins.Artifacts.
func (a *Artifacts) Active(ctx context.Context, tenant string) (plugins.Pointer, error) {
	p, err := a.pointed(ctx, tenant)
	return p.Pointer, err
}

// ActiveVersion implements plugins.Artifacts.
func (a *Artifacts) ActiveVersion(ctx context.Context, tenant string) (plugins.Version, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	p, err := a.pointed(ctx, tenant)
	switch {
	case err != nil:
		return plugins.Version{}, err
	case p.Active == 0:
		return plugins.Version{}, plugins.ErrNotFound
	case p.Version == nil:
		return a.Version(ctx, tenant, p.Active)
	}
	return *p.Version, nil
}

// SetActive implements plugins.Artifacts.
func (a *Artifacts) SetActive(ctx context.Context, tenant string, from, to plugins.Pointer, changed []plugins.Version) error {
	when := []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(activePrefix+tenant), "=", from.Revision),
		clientv3.Compare(clientv3.CreateRevision(versionKey(tenant, to.Active)), ">", 0),
	}
	record := pointed{Pointer: to}
	var then []clientv3.Op
	for _, v := range changed {
		then = append(then, clientv3.OpPut(versionKey(tenant, v.Number), encode(v)))
		if v.Number == to.Active {
			v.Manifest = nil // no login needs it
			record.Version = &v
		}
	}
	then = append(then, clientv3.OpPut(activePrefix+tenant, encode(record)))
	done, err := a.commit(ctx, when, then...)
	if err != nil {
		return err
	}
	if !done.Succeeded {
		return fmt.Errorf("%w: another activation came first", plugins.ErrConflict)
	}
	return nil
}

// Remove implements plugins.Artifacts.
func (a *Artifacts) Remove(ctx context.Context, tenant string, number int) error {
	versions, err := a.Versions(ctx, tenant)
	if err != nil {
		return err
	}
	for _, v := range versions {
		if v.Number != number {
			continue
		}
		pointer, err := a.Active(ctx, tenant)
		if err != nil {
			return err
		}
		if pointer.Active == number {
			return fmt.Errorf("%w: version %d is active", plugins.ErrConflict, number)
		}
		done, err := a.commit(ctx,
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(activePrefix+tenant), "=", pointer.Revision)},
			clientv3.OpDelete(versionKey(tenant, number)),
			clientv3.OpDelete(refKey(v.Digest, tenant, number)),
		)
		if err != nil {
			return err
		}
		if !done.Succeeded {
			return fmt.Errorf("%w: an activation came in between", plugins.ErrConflict)
		}
		return a.collect(ctx, v.Digest)
	}
	return nil
}

// RemoveTenant implements plugins.Artifacts.
func (a *Artifacts) RemoveTenant(ctx context.Context, tenant string) error {
	versions, err := a.Versions(ctx, tenant)
	if err != nil {
		return err
	}
	for _, v := range versions {
		if _, err := a.commit(ctx, nil, clientv3.OpDelete(refKey(v.Digest, tenant, v.Number))); err != nil {
			return err
		}
		if err := a.collect(ctx, v.Digest); err != nil {
			return err
		}
	}
	_, err = a.commit(ctx, nil,
		clientv3.OpDelete(activePrefix+tenant),
		clientv3.OpDelete(seqPrefix+tenant),
		clientv3.OpDelete(versionPrefix+tenant+"/", clientv3.WithPrefix()),
	)
	return err
}

// collect deletes a module that nothing refers to.
func (a *Artifacts) collect(ctx context.Context, digest string) error {
	// A comparison over a range holds for every key in it, and over none it holds
	// for "was never created".
	none := clientv3.Compare(clientv3.CreateRevision(refPrefix+digest+"/").WithPrefix(), "=", 0)
	_, err := a.commit(ctx, []clientv3.Cmp{none}, clientv3.OpDelete(blobPrefix+digest+"/", clientv3.WithPrefix()), clientv3.OpDelete(sizePrefix+digest))
	return err
}

// Sweep deletes what uploads that did not come to their end have left.
func (a *Artifacts) Sweep(ctx context.Context) error {
	got, err := a.get(ctx, blobPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, kv := range got.Kvs {
		digest, _, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), blobPrefix), "/")
		if seen[digest] {
			continue
		}
		seen[digest] = true
		if err := a.collect(ctx, digest); err != nil {
			return err
		}
	}
	return nil
}

func (a *Artifacts) get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	got, err := a.client.Get(ctx, key, options...)
	return got, unavailable(err)
}

func (a *Artifacts) commit(ctx context.Context, when []clientv3.Cmp, then ...clientv3.Op) (*clientv3.TxnResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, unavailable(err) // the client in this process proposes before it looks
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	done, err := a.client.Txn(ctx).If(when...).Then(then...).Commit()
	return done, unavailable(err)
}

func encode(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic("plugins/etcd: encode: " + err.Error()) // plain fields only
	}
	return string(text)
}

// unavailable marks whatever etcd could not do.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", plugins.ErrUnavailable, err)
}
