package cluster

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What etcd measures of itself, in Prometheus's registry alone.
const (
	syncSeconds = "etcd_disk_wal_fsync_duration_seconds"
	linkSeconds = "etcd_network_peer_round_trip_time_seconds"
)

const (
	sampleEvery = 10 * time.Second
	samples     = 6 // a minute
)

// latency is a histogram's last minute. Totals since the start would hide a disk
// that became slow an hour ago.
type latency struct {
	mu   sync.Mutex
	past []map[float64]uint64 // cumulative counts by upper bound, oldest first
}

// note keeps what the histogram has come to.
func (l *latency) note(counts map[float64]uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.past = append(l.past, counts); len(l.past) > samples+1 {
		l.past = l.past[1:]
	}
}

// p99 is the upper bound under which 99 of 100 of the last minute were; the
// largest bound there is for what was above all; 0 when there was nothing.
func (l *latency) p99() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.past) < 2 {
		return 0
	}
	old, now := l.past[0], l.past[len(l.past)-1]
	total, most := uint64(0), 0.0
	for bound, n := range now {
		total = max(total, n-old[bound])
		if !math.IsInf(bound, 1) {
			most = max(most, bound)
		}
	}
	if total == 0 {
		return 0
	}
	best := most
	for bound, n := range now {
		if bound < best && (n-old[bound])*100 >= total*99 {
			best = bound
		}
	}
	return time.Duration(best * float64(time.Second))
}

// keepLatency samples what etcd measures until ctx ends.
func (m *Member) keepLatency(ctx context.Context) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		m.disk.note(histogram(syncSeconds))
		m.links.note(histogram(linkSeconds))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.etcd.Server.StopNotify():
			return nil
		case <-tick.C:
		}
	}
}

// histogram reads one of etcd's, over all its labels. What cannot be read shows
// as nothing: it is for people to look at.
func histogram(name string) map[float64]uint64 {
	counts := map[float64]uint64{}
	families, _ := prometheus.DefaultGatherer.Gather() // with an error there may be some all the same
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, one := range family.GetMetric() {
			h := one.GetHistogram()
			for _, b := range h.GetBucket() {
				counts[b.GetUpperBound()] += b.GetCumulativeCount()
			}
			counts[math.Inf(1)] += h.GetSampleCount()
		}
	}
	return counts
}
