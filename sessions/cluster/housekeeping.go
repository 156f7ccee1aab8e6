package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"golang.org/x/sync/errgroup"
)

// Stats is how full a member's database is.
type Stats struct {
	Bytes      int64 // of the file; it never shrinks but by a defragmentation
	InUseBytes int64 // of these, holding something; the rest is used again
	QuotaBytes int64 // at which etcd refuses to write
	NoSpace    bool  // it refuses, all members together, until room is made
}

// Stats reads counters; it asks nobody.
func (m *Member) Stats() Stats {
	s := Stats{
		Bytes:      m.etcd.Server.Backend().Size(),
		InUseBytes: m.etcd.Server.Backend().SizeInUse(),
		QuotaBytes: m.quota,
	}
	for _, a := range m.etcd.Server.Alarms() {
		s.NoSpace = s.NoSpace || a.Alarm == etcdserverpb.AlarmType_NOSPACE
	}
	return s
}

var (
	dbBytes    = prometheus.NewDesc("doorward_etcd_db_bytes", "Size of the embedded etcd's database file.", nil, nil)
	dbInUse    = prometheus.NewDesc("doorward_etcd_db_in_use_bytes", "What of the embedded etcd's database file holds something.", nil, nil)
	quotaBytes = prometheus.NewDesc("doorward_etcd_quota_bytes", "Size at which the embedded etcd refuses to write.", nil, nil)
	noSpace    = prometheus.NewDesc("doorward_etcd_nospace", "1 while etcd refuses to write because a database is full.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *Member) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{dbBytes, dbInUse, quotaBytes, noSpace} {
		to <- d
	}
}

// Collect implements prometheus.Collector with what Stats says.
func (m *Member) Collect(to chan<- prometheus.Metric) {
	s := m.Stats()
	full := 0.0
	if s.NoSpace {
		full = 1
	}
	for desc, value := range map[*prometheus.Desc]float64{
		dbBytes: float64(s.Bytes), dbInUse: float64(s.InUseBytes), quotaBytes: float64(s.QuotaBytes), noSpace: full,
	} {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value)
	}
}

const (
	lookEvery   = 3 * time.Second // at the size and the alarm: room that was made counts within seconds
	defragEvery = time.Hour       // at most, unless the database is full
)

// Run keeps the member's database in order until ctx ends, and returns ctx's
// error; nil when the member ends first; ErrCorrupt when its data is not what the
// others have. What else it cannot do it logs, and goes on.
//
// It forgets the past before where the cluster was an interval ago, so that a
// watch may be that late. It gives unused pages of a large file back. And when
// the database is full, it waits until deletes and expiry have made room, and
// then makes etcd write again.
func (m *Member) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	past, size := keeper{Member: m}, keeper{Member: m}
	group.Go(func() error { return past.keepPast(ctx) })
	group.Go(func() error { return size.keepSize(ctx) })
	group.Go(func() error { return m.keepLatency(ctx) })
	group.Go(func() error { return m.compareData(ctx) })
	return group.Wait()
}

// ErrCorrupt: the member's data differs from the others'.
var ErrCorrupt = errors.New("this member's data is not the other members'; " + replaceIt)

// compareData compares what is on disk with what the others have, once. etcd can
// do so before it serves, but then waits six seconds for each member that does
// not answer: three that were started together after a power failure waited
// twelve for each other. Compactions compare each minute from then on.
func (m *Member) compareData(ctx context.Context) error {
	if len(m.etcd.Server.Cluster().Members()) == 1 {
		return nil
	}
	err := m.beside(ctx, m.etcd.Server.CorruptionChecker().InitialCheck)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// keeper is what one loop of Run remembers.
type keeper struct {
	*Member
	compacted int64     // revision before which the past is forgotten
	warned    int       // percent of the quota last warned of
	full      bool      // has said so
	next      time.Time // when to try again to make room
	defragged time.Time // by this process, not because it was full
	complaint string    // last one, which is not repeated
}

// keepPast compacts to where the cluster was one interval ago. In a cluster the
// leader does it for all. A compaction reads every key there is, ten seconds
// for each million (measured), so it pauses nine times as long as the last took.
func (k *keeper) keepPast(ctx context.Context) error {
	pause := k.compactEvery
	for {
		seen := k.revision()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.etcd.Server.StopNotify():
			return nil
		case <-time.After(pause):
		}
		pause = k.compactEvery
		if k.IsLeader() && !k.isFull() { // else the other loop does, and more
			began := time.Now()
			k.complain(ctx, k.compact(ctx, seen))
			pause = max(pause, 9*time.Since(began))
		}
	}
}

// keepSize looks at the size of the database and the alarm.
func (k *keeper) keepSize(ctx context.Context) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.etcd.Server.StopNotify():
			return nil
		case <-look.C:
		}
		s := k.Stats()
		k.warn(s)
		switch {
		case k.isFull():
			k.complain(ctx, k.recover(ctx))
		case worthDefrag(s) && k.mayDefrag():
			k.complain(ctx, k.defrag(ctx))
			k.defragged = time.Now()
		}
	}
}

// warn says once that the database is 60 and 80 % full; again only after it was
// ten percent emptier.
func (k *keeper) warn(s Stats) {
	percent := int(s.InUseBytes * 100 / s.QuotaBytes)
	for _, mark := range []int{80, 60} {
		if percent >= mark && k.warned < mark {
			k.warned = mark
			k.log.Warn(fmt.Sprintf("etcd's database is over %d %% full; when it is full nobody can sign in: raise etcd.quota_bytes, or shorten the sessions of the largest tenant", mark),
				"in_use_bytes", s.InUseBytes, "quota_bytes", s.QuotaBytes)
			return
		}
	}
	for k.warned > 0 && percent < k.warned-10 {
		k.warned -= 20
		if k.warned < 60 {
			k.warned = 0
		}
	}
}

// isFull reports whether this member's database is what makes etcd refuse to
// write. Each member mends its own.
func (m *Member) isFull() bool {
	return slices.ContainsFunc(m.etcd.Server.Alarms(), func(a *etcdserverpb.AlarmMember) bool {
		return a.Alarm == etcdserverpb.AlarmType_NOSPACE && a.MemberID == uint64(m.etcd.Server.MemberID())
	})
}

// recover makes etcd write again if there is room: a tenth of the quota, lest
// it be full again at once. Deletes only mark; a compaction frees pages, and as
// the quota is on the file, a defragmentation gives them back. The alarm does
// not end by itself.
func (k *keeper) recover(ctx context.Context) error {
	if !k.full {
		k.full = true
		k.log.Error("etcd's database is full: nobody can sign in, while sign-outs, revokes and expiry go on. It writes again by itself when room is made: end sessions, delete tenants, or raise etcd.quota_bytes and restart",
			"quota_bytes", k.quota, "room_at_bytes", k.roomAt())
	}
	if time.Now().Before(k.next) {
		return nil
	}
	began := time.Now()
	if err := k.compact(ctx, k.revision()); err != nil { // nothing to do if nothing was deleted since
		return err
	}
	k.next = time.Now().Add(time.Since(began)) // so that half the time is the deletes'
	if k.Stats().InUseBytes >= k.roomAt() {
		return nil
	}
	if k.Stats().Bytes >= k.roomAt() {
		if err := k.defrag(ctx); err != nil {
			return err
		}
		if k.Stats().Bytes >= k.roomAt() {
			return nil
		}
	}
	mine := &clientv3.AlarmMember{MemberID: uint64(k.etcd.Server.MemberID()), Alarm: etcdserverpb.AlarmType_NOSPACE}
	if _, err := k.client.AlarmDisarm(ctx, mine); err != nil {
		return fmt.Errorf("end etcd's alarm: %w", err)
	}
	k.full = false
	s := k.Stats()
	k.log.Info("etcd's database has room again; sign-ins go on", "db_bytes", s.Bytes, "quota_bytes", s.QuotaBytes)
	return nil
}

func (m *Member) roomAt() int64 { return m.quota / 10 * 9 }

// worthDefrag says when the stall of a defragmentation (9 ms for each MB in
// use, measured; 30 on a busy machine) is worth it. Under steady churn a file is half free and stays
// as it is, so half is no reason. Mostly free is, in a file that is not small;
// and so is a file near the quota that need not be, because etcd counts the
// file and would call it full.
func worthDefrag(s Stats) bool {
	mostlyFree := s.Bytes >= s.QuotaBytes/8 && s.InUseBytes < s.Bytes/4
	nearQuota := s.Bytes >= s.QuotaBytes/10*9 && s.InUseBytes < s.QuotaBytes/10*6
	return mostlyFree || nearQuota
}

// mayDefrag keeps the members of a cluster from stalling together: each has its
// minute, and the leader, for whom all would wait, has none.
func (k *keeper) mayDefrag() bool {
	if time.Since(k.defragged) < defragEvery {
		return false
	}
	members := k.etcd.Server.Cluster().Members()
	if len(members) == 1 {
		return true
	}
	slices.SortFunc(members, func(a, b *membership.Member) int { return cmp.Compare(a.ID, b.ID) })
	turn := time.Now().Unix() / 60 % int64(len(members))
	return members[turn].ID == k.etcd.Server.MemberID() && !k.IsLeader()
}

func (m *Member) revision() int64 { return m.etcd.Server.KV().Rev() }

// compact forgets everything before revision, and returns when the pages are
// free.
func (k *keeper) compact(ctx context.Context, revision int64) error {
	if revision <= k.compacted {
		return nil
	}
	err := k.beside(ctx, func() error {
		_, err := k.client.Compact(ctx, revision, clientv3.WithCompactPhysical())
		return err
	})
	if err != nil && !errors.Is(rpctypes.Error(err), rpctypes.ErrCompacted) { // another member was first
		return fmt.Errorf("compact etcd's database: %w", err)
	}
	k.compacted = revision
	return nil
}

// defrag writes the file anew. Everybody who wants something of this member
// waits. The server's own call is used: the in-process client's panics (etcd
// 3.7.3, a nil notifier).
func (k *keeper) defrag(ctx context.Context) error {
	before, began := k.Stats(), time.Now()
	if err := k.beside(ctx, k.etcd.Server.Defragment); err != nil {
		return fmt.Errorf("defragment etcd's database: %w", err)
	}
	k.log.Info("defragmented etcd's database", "bytes_before", before.Bytes, "bytes", k.Stats().Bytes, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// beside runs what does not end with a context, and stops waiting when ctx
// ends. Close waits for it.
func (m *Member) beside(ctx context.Context, work func() error) error {
	done := make(chan error, 1)
	m.work.Go(func() { done <- work() })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// complain logs an error once, not each time that it comes again.
func (k *keeper) complain(ctx context.Context, err error) {
	if err == nil {
		k.complaint = ""
		return
	}
	if ctx.Err() == nil && err.Error() != k.complaint {
		k.complaint = err.Error()
		k.log.Warn("etcd housekeeping failed; trying again", "err", err)
	}
}
