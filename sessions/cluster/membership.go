package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
)

// What can be wrong with a change of who is a member.
var (
	ErrRemoved    = errors.New("this member was removed from its cluster")
	ErrMember     = errors.New("there is a member of that name already")
	ErrNoMember   = errors.New("there is no such member")
	ErrNotHealthy = errors.New("the cluster is not healthy enough to change its members")
)

// Peer is one member as another one knows it.
type Peer struct {
	ID      uint64
	Name    string // "" until it has started once
	URL     string // where other members reach it
	Clients string // where nodes that are no members reach it; "": nowhere
	Learner bool   // it is not yet in step and has no vote
	Leader  bool
}

// ID is the member's number in its cluster.
func (m *Member) ID() uint64 { return uint64(m.etcd.Server.MemberID()) }

// IsLearner reports whether this member has no vote yet.
func (m *Member) IsLearner() bool { return m.etcd.Server.IsLearner() }

// Peers lists the members as far as this one knows them, itself among them, by
// name. It asks nobody.
func (m *Member) Peers() []Peer {
	leader := m.etcd.Server.Leader()
	var list []Peer
	for _, one := range m.etcd.Server.Cluster().Members() {
		list = append(list, Peer{
			ID: uint64(one.ID), Name: one.Name, URL: first(one.PeerURLs), Clients: clientsOf(one.ClientURLs),
			Learner: one.IsLearner, Leader: one.ID == leader,
		})
	}
	slices.SortFunc(list, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return list
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// clientsOf is where others may be a member's clients: its socket they cannot
// reach.
func clientsOf(urls []string) string {
	for _, u := range urls {
		if strings.HasPrefix(u, "https://") {
			return u
		}
	}
	return ""
}

// Endpoints asks for where members take clients now, for a client of theirs.
func Endpoints(ctx context.Context, client *clientv3.Client) ([]string, error) {
	answer, err := client.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for the members: %w", err)
	}
	var list []string
	for _, one := range answer.Members {
		if u := clientsOf(one.ClientURLs); u != "" && !one.IsLearner {
			list = append(list, u)
		}
	}
	slices.Sort(list)
	return list, nil
}

// Add makes room for another member, as a learner, and returns all members'
// peer URLs by their names, the new one's included: what its Config.Peers must be.
// It has no vote and does not count for a majority until Promote.
//
// ErrMember when the name or the URL is taken; a member that was added by that
// name or URL and has never started gives way. ErrNotHealthy when ctx ends
// before most of the others have been connected for some seconds.
func (m *Member) Add(ctx context.Context, name, peer string) (map[string]string, error) {
	if _, err := peerURL(peer); err != nil {
		return nil, fmt.Errorf("add member %s: %w", name, err)
	}
	for _, one := range m.Peers() {
		switch {
		case one.Name == "" && one.URL == peer:
			if err := m.remove(ctx, one.ID); err != nil {
				return nil, fmt.Errorf("add member %s: %w", name, err)
			}
		case one.Name == name:
			return nil, fmt.Errorf("add member %s: %w, at %s; give this one another cluster.name, or take the other's place with cluster replace", name, ErrMember, one.URL)
		case one.URL == peer:
			return nil, fmt.Errorf("add member %s: %w: %s has its address %s", name, ErrMember, one.Name, peer)
		}
	}
	var added *clientv3.MemberAddResponse
	err := m.patiently(ctx, func() (err error) {
		// An id is made of the URL and the second, and one that was removed is
		// none for ever; the next second's is another.
		for again := true; again; again = errors.Is(rpctypes.Error(err), rpctypes.ErrMemberNotFound) && pause(ctx) {
			added, err = m.client.MemberAddAsLearner(ctx, []string{peer})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("add member %s: %w", name, err)
	}
	peers := map[string]string{}
	for _, one := range added.Members {
		known := one.Name
		if one.ID == added.Member.ID {
			known = name
		}
		if known == "" { // etcd compares the URLs alone
			known = strconv.FormatUint(one.ID, 16)
		}
		peers[known] = first(one.PeerURLs)
	}
	return peers, nil
}

// Remove ends the membership of the member of that name, or that number in
// hexadecimal, for good; its own member ends by it. ErrNoMember, or ErrNotHealthy when the
// others would be no majority without it.
func (m *Member) Remove(ctx context.Context, name string) error {
	for _, one := range m.Peers() {
		if one.Name == name && name != "" || strconv.FormatUint(one.ID, 16) == name {
			if one.ID == m.ID() {
				// Else everybody waits for an election. When nobody takes it, they do.
				m.etcd.Server.TryTransferLeadershipOnShutdown()
			}
			if err := m.remove(ctx, one.ID); err != nil {
				return fmt.Errorf("remove member %s: %w", name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("remove member %s: %w", name, ErrNoMember)
}

func (m *Member) remove(ctx context.Context, id uint64) error {
	for {
		err := m.patiently(ctx, func() error {
			_, err := m.client.MemberRemove(ctx, id)
			return err
		})
		var known rpctypes.EtcdError
		switch {
		case errors.Is(rpctypes.Error(err), rpctypes.ErrMemberNotFound):
			return nil // somebody else was first, or an earlier try
		case id == m.ID() && m.etcd.Server.IsIDRemoved(id):
			return nil // it ends while it answers
		case errors.As(rpctypes.Error(err), &known) && known.Code() == codes.Unavailable && pause(ctx):
			continue // lost to a change of leader, as when this one has just handed its leadership on
		}
		return err
	}
}

// tryAgain is how long a refused change of members rests.
const tryAgain = 200 * time.Millisecond

// patiently tries a change again while etcd finds the cluster not healthy, as it
// does for five seconds after any change or start, until ctx ends.
func (m *Member) patiently(ctx context.Context, change func() error) error {
	for {
		err := change()
		if !errors.Is(rpctypes.Error(err), rpctypes.ErrUnhealthy) && !errors.Is(rpctypes.Error(err), rpctypes.ErrMemberNotEnoughStarted) {
			if errors.Is(rpctypes.Error(err), rpctypes.ErrTooManyLearners) {
				return fmt.Errorf("%w: another node is joining; wait until it has its vote, or remove it", ErrNotHealthy)
			}
			return err
		}
		if !pause(ctx) {
			return fmt.Errorf("%w: %w; see cluster status", ErrNotHealthy, err)
		}
	}
}

// pause rests before another try; false when ctx has ended.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(tryAgain):
		return true
	case <-ctx.Done():
		return false
	}
}

// Promote waits until this member is in step and gives it its vote; at once
// when it has one. Until ctx ends it tries again, whatever is in the way.
func (m *Member) Promote(ctx context.Context) error {
	for m.IsLearner() {
		asked, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := m.client.MemberPromote(asked, m.ID())
		cancel()
		if err == nil {
			m.log.Info("this member is in step and has its vote")
			return nil
		}
		select {
		case <-time.After(tryAgain):
		case <-m.etcd.Server.StopNotify():
			return fmt.Errorf("promote this member: %w", m.stopped())
		case <-ctx.Done():
			return fmt.Errorf("promote this member: %w", ctx.Err())
		}
	}
	return nil
}

// Health is what a member knows of itself.
type Health struct {
	ID        uint64
	Name      string
	Leader    uint64        // whom it follows; 0: nobody
	Learner   bool          // it has no vote
	Term      uint64        // of Raft: how often there was an election
	Committed uint64        // Raft index that a majority has, as far as it knows
	Applied   uint64        // Raft index that its database has come to
	Stats     Stats         // of its database
	Full      bool          // its database is what makes etcd refuse to write
	Corrupt   bool          // its data is not the others'
	Sync      time.Duration // 99 of 100 syncs of its log took no longer, in the last minute; 0: there were none
	Link      time.Duration // likewise round trips to the other members
}

// Health reads what is known in this process; it asks nobody.
func (m *Member) Health() Health {
	server := m.etcd.Server
	h := Health{
		ID: m.ID(), Name: server.Cfg.Name, Leader: uint64(server.Leader()), Learner: server.IsLearner(),
		Term: server.Term(), Committed: server.CommittedIndex(), Applied: server.AppliedIndex(),
		Stats: m.Stats(), Full: m.isFull(), Sync: m.disk.p99(), Link: m.links.p99(),
	}
	for _, a := range server.Alarms() {
		h.Corrupt = h.Corrupt || a.Alarm == etcdserverpb.AlarmType_CORRUPT && a.MemberID == h.ID
	}
	return h
}
