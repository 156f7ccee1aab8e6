package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/doorward/doorward/service/web"
	"github.com/doorward/doorward/sessions/cluster"
	"github.com/doorward/doorward/tenants/seal"
)

// The roles of a node in a cluster.
const (
	roleMember = "member" // it has an etcd of its own, which votes
	roleClient = "client" // it uses the members'
)

// control is what the nodes of one cluster say to each other beside etcd: who may
// join, and how they are. It speaks TLS of the cluster's own authority.
type control struct {
	config    config
	log       *slog.Logger
	client    *clientv3.Client
	member    *cluster.Member    // nil on a client
	authority *cluster.Authority // which signs on members
	identity  *cluster.Identity  // nil on a member that has no port
	joined    *joined            // nil on a first member
}

// joined is what DIR/cluster/joined.json keeps of the day a node joined.
type joined struct {
	Role    string            `json:"role"`
	Peers   map[string]string `json:"peers,omitempty"`   // of a member: all members' URLs then
	Clients []string          `json:"clients,omitempty"` // of a client: where members take clients, brought up to date
}

func (c *config) joinedFile() string { return filepath.Join(c.clusterDir(), "joined.json") }

// loadJoined is nil on a node that never joined.
func loadJoined(c config) (*joined, error) {
	text, err := os.ReadFile(c.joinedFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var j joined
	if err == nil {
		err = json.Unmarshal(text, &j)
	}
	if err != nil {
		return nil, fmt.Errorf("read what this node joined: %w", err)
	}
	return &j, nil
}

// save writes it, whole or not at all.
func (j *joined) save(c config) error {
	text, err := json.MarshalIndent(j, "", "  ")
	if err == nil {
		err = os.WriteFile(c.joinedFile()+".new", append(text, '\n'), 0o600)
	}
	if err == nil {
		err = os.Rename(c.joinedFile()+".new", c.joinedFile())
	}
	if err != nil {
		return fmt.Errorf("write what this node joined: %w", err)
	}
	return nil
}

// openCluster starts the member in this process, or is a client of others'.
func openCluster(ctx context.Context, c config, log *slog.Logger) (*clientv3.Client, *control, func(), error) {
	k := &control{config: c, log: log}
	var err error
	if k.joined, err = loadJoined(c); err != nil {
		return nil, nil, nil, err
	}
	if k.joined != nil && k.joined.Role == roleClient {
		return k.dial(ctx)
	}
	if c.Cluster.Listen != "" {
		if k.joined == nil && len(c.Cluster.Initial) <= 1 {
			k.authority, err = cluster.LoadOrCreateAuthority(c.authorityFile())
		} else {
			k.authority, err = cluster.LoadAuthority(c.authorityFile())
		}
		if err == nil {
			k.identity, err = cluster.OwnIdentity(c.clusterDir(), c.Cluster.Name, k.authority)
		}
		if err != nil {
			return nil, nil, nil, err
		}
	}
	l := c.Cluster
	settings := cluster.Config{
		Dir: c.DataDir, Name: l.Name, QuotaBytes: c.Etcd.QuotaBytes, Log: log,
		Listen: l.Listen, Advertise: l.Advertise, Clients: l.Clients, Identity: k.identity, Peers: l.Initial,
	}
	if k.joined != nil {
		settings.Peers, settings.Joined = k.joined.Peers, true
	}
	if k.member, err = cluster.Start(ctx, settings); err != nil {
		return nil, nil, nil, err
	}
	k.client = k.member.Client()
	prometheus.MustRegister(k.member)
	return k.client, k, func() {
		prometheus.Unregister(k.member)
		k.member.Close() // what it could not end in time is on disk
	}, nil
}

// dial makes this node a client of the members.
func (k *control) dial(ctx context.Context) (*clientv3.Client, *control, func(), error) {
	lock, err := cluster.Lock(k.config.DataDir)
	if err != nil {
		return nil, nil, nil, err
	}
	if k.identity, err = cluster.LoadIdentity(k.config.clusterDir()); err == nil {
		k.client, err = cluster.Dial(ctx, cluster.DialConfig{Endpoints: k.joined.Clients, Identity: k.identity, Timeout: dialTime, Log: k.log})
	}
	if err != nil {
		lock.Close()
		return nil, nil, nil, err
	}
	return k.client, k, func() {
		k.client.Close() // its connections end with the process anyway
		lock.Close()
	}, nil
}

// Run makes this node known to the others, and gives a member that is in step its
// vote: the rest of what the operator began with cluster join. On a client it
// follows where the members are. It returns ctx's error when that ends.
func (k *control) Run(ctx context.Context) error {
	if k.identity == nil {
		return nil
	}
	var group errgroup.Group
	group.Go(func() error { return k.register(ctx) })
	if k.member != nil {
		group.Go(func() error { return k.member.Promote(ctx) })
	} else {
		group.Go(func() error { return k.followMembers(ctx) })
	}
	return group.Wait()
}

// Where the cluster keeps what nodes know of each other: of no use to another.
const (
	clusterPrefix = "/dw/cluster/"
	nodesPrefix   = clusterPrefix + "nodes/"
	tokensPrefix  = clusterPrefix + "tokens/"
)

// registered is what a node says of itself in etcd.
type registered struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Control string `json:"control"` // URL; "": it cannot be asked
	Version string `json:"version"`
}

// controlURL is where other nodes ask this one.
func (c *config) controlURL() (string, error) {
	if c.Cluster.Control == "" {
		return "", nil
	}
	if c.Cluster.Advertise == "" { // a client
		return "https://" + c.Cluster.Control, nil
	}
	return cluster.Beside(c.Cluster.Advertise, c.Cluster.Control)
}

func (k *control) register(ctx context.Context) error {
	at, err := k.config.controlURL()
	if err != nil {
		return err
	}
	role := roleClient
	if k.member != nil {
		role = roleMember
	}
	text, err := json.Marshal(registered{k.config.Cluster.Name, role, at, version})
	if err != nil {
		return fmt.Errorf("make this node known: %w", err)
	}
	for {
		trying, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := k.client.Put(trying, nodesPrefix+k.config.Cluster.Name, string(text))
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// followEvery is how often a client looks where the members are.
const followEvery = 30 * time.Second

// followMembers keeps a client's endpoints those of the members there are, also
// for its next start.
func (k *control) followMembers(ctx context.Context) error {
	for {
		asking, cancel := context.WithTimeout(ctx, dialTime)
		now, err := cluster.Endpoints(asking, k.client)
		cancel()
		if err == nil && len(now) > 0 && !slices.Equal(now, k.joined.Clients) {
			k.log.Info("the members that take clients are others now", "were", k.joined.Clients, "are", now)
			k.client.SetEndpoints(now...)
			k.joined.Clients = now
			if err := k.joined.save(k.config); err != nil {
				k.log.Warn("the next start of this node looks for the members where they were", "err", err)
			}
		}
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// joinToken lets one node join: the authority's fingerprint, so that the node
// knows whom it speaks to, and a secret, so that the cluster knows who sent it.
type joinToken struct {
	fingerprint [sha256.Size]byte
	secret      [20]byte
}

const tokenPrefix = "dwj_"

func parseJoinToken(text string) (joinToken, error) {
	var t joinToken
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, tokenPrefix))
	if err != nil || len(raw) != len(t.fingerprint)+len(t.secret) || !strings.HasPrefix(text, tokenPrefix) {
		return t, errors.New("that is no token that cluster token has made")
	}
	copy(t.secret[:], raw[copy(t.fingerprint[:], raw):])
	return t, nil
}

// reveal is the token as people carry it.
func (t joinToken) reveal() string {
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(slices.Concat(t.fingerprint[:], t.secret[:]))
}

// key is where etcd keeps it: whoever reads that cannot join by it.
func (t joinToken) key() string {
	sum := sha256.Sum256(t.secret[:])
	return tokensPrefix + hex.EncodeToString(sum[:])
}

// String shows nothing.
func (joinToken) String() string { return "redacted" }

// GoString shows nothing.
func (joinToken) GoString() string { return "redacted" }

// invitation is a token as etcd keeps it.
type invitation struct {
	Role      string    `json:"role"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Invite implements web.Cluster.
func (k *control) Invite(ctx context.Context, role string, ttl time.Duration) (web.Invitation, error) {
	if k.member == nil {
		return web.Invitation{}, fmt.Errorf("%w: this node is a client of the members; ask one of them", web.ErrClusterRefused)
	}
	if role == roleClient && !slices.ContainsFunc(k.member.Peers(), func(p cluster.Peer) bool { return p.Clients != "" }) {
		return web.Invitation{}, fmt.Errorf("%w: no member takes clients; set cluster.clients on members and restart them", web.ErrClusterRefused)
	}
	at, err := k.config.controlURL()
	if err != nil {
		return web.Invitation{}, err
	}
	t := joinToken{fingerprint: k.authority.Fingerprint()}
	rand.Read(t.secret[:]) // which does not fail
	made := invitation{role, time.Now().Add(ttl).UTC().Truncate(time.Second)}
	text, err := json.Marshal(made)
	if err != nil {
		return web.Invitation{}, fmt.Errorf("make a token: %w", err)
	}
	lease, err := k.client.Grant(ctx, int64(ttl.Seconds())+60) // to clear it away; the time in it decides
	if err != nil {
		return web.Invitation{}, fmt.Errorf("make a token: %w", err)
	}
	if _, err := k.client.Put(ctx, t.key(), string(text), clientv3.WithLease(lease.ID)); err != nil {
		return web.Invitation{}, fmt.Errorf("make a token: %w", err)
	}
	return web.Invitation{Token: t.reveal(), Role: role, URL: at, ExpiresAt: made.ExpiresAt}, nil
}

var errToken = errors.New("the token is used up, has expired, or is another cluster's; make a new one with cluster token")

// spend takes a token once and for all, and tells what it was for.
func (k *control) spend(ctx context.Context, text string) (invitation, error) {
	var made invitation
	t, err := parseJoinToken(text)
	if err != nil {
		return made, errToken
	}
	found, err := k.client.Get(ctx, t.key())
	if err != nil {
		return made, fmt.Errorf("look the token up: %w", err)
	}
	if len(found.Kvs) == 0 || json.Unmarshal(found.Kvs[0].Value, &made) != nil || !time.Now().Before(made.ExpiresAt) {
		return made, errToken
	}
	spent, err := k.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(t.key()), "=", found.Kvs[0].ModRevision)).
		Then(clientv3.OpDelete(t.key())).Commit()
	if err != nil {
		return made, fmt.Errorf("use the token up: %w", err)
	}
	if !spent.Succeeded {
		return made, errToken
	}
	return made, nil
}

// joinRequest is what a node that wants to join says.
type joinRequest struct {
	Name    string `json:"name"`
	Peer    string `json:"peer"`    // of a member: where the others will reach it
	Key     []byte `json:"key"`     // public, PKIX
	Replace bool   `json:"replace"` // the dead member of that name
}

// joinAnswer is what it gets. It holds everything that opens the store.
type joinAnswer struct {
	Role        string            `json:"role"`
	Certificate []byte            `json:"certificate"`
	Authority   []byte            `json:"authority"` // with its key for a member
	Keyring     []byte            `json:"keyring"`
	Peers       map[string]string `json:"peers,omitempty"`
	Clients     []string          `json:"clients,omitempty"`
}

// String shows nothing.
func (joinAnswer) String() string { return "redacted" }

// handler answers other nodes.
func (k *control) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/join", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), joinTime)
		defer cancel()
		answer, err := k.admit(ctx, r)
		k.answer(w, answer, err)
	})
	mux.HandleFunc("GET /v1/health", func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			k.answer(w, nil, errNotANode)
			return
		}
		k.answer(w, k.health(), nil)
	})
	return mux
}

// joinTime is how long a cluster may take to make room: longer than the five
// seconds that etcd wants it to have been healthy.
const joinTime = 20 * time.Second

var errNotANode = errors.New("only nodes of this cluster may ask")

// answer writes JSON, or what is wrong as a problem like everywhere else.
func (k *control) answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Cache-Control", "no-store")
	if err != nil {
		status, code := http.StatusServiceUnavailable, "unavailable"
		switch {
		case errors.Is(err, errToken), errors.Is(err, errNotANode):
			status, code = http.StatusUnauthorized, "unauthorized"
		case errors.Is(err, errJoin):
			status, code = http.StatusBadRequest, "invalid"
		case errors.Is(err, cluster.ErrMember), errors.Is(err, cluster.ErrNotHealthy), errors.Is(err, errAlive):
			status, code = http.StatusConflict, "conflict"
		}
		k.log.Warn("another node was refused", "err", err)
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		v = answerError{Status: status, Code: code, Title: http.StatusText(status), Detail: err.Error()}
	}
	if err := json.NewEncoder(w).Encode(v); err != nil {
		k.log.Debug("answer to another node not delivered", "err", err)
	}
}

// What is wrong with a request to join.
var (
	errJoin  = errors.New("the request to join makes no sense")
	errAlive = errors.New("the member that is to be replaced answers")
)

// admit lets a node in, by its token.
func (k *control) admit(ctx context.Context, r *http.Request) (*joinAnswer, error) {
	var ask joinRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&ask); err != nil {
		return nil, fmt.Errorf("%w: %w", errJoin, err)
	}
	var named config
	named.Cluster.Name = ask.Name
	if err := named.checkCluster(); err != nil {
		return nil, fmt.Errorf("%w: %w", errJoin, err)
	}
	_, text, _ := strings.Cut(r.Header.Get("Authorization"), "Bearer ")
	invited, err := k.spend(ctx, text)
	if err != nil {
		return nil, err
	}
	if k.member == nil {
		return nil, fmt.Errorf("%w: this node is a client of the members", errJoin)
	}
	if invited.Role == roleMember && ask.Peer == "" {
		return nil, fmt.Errorf("%w: the token is for a member, which needs cluster.listen; set it, or take a token made with --role client", errJoin)
	}
	answer := &joinAnswer{Role: invited.Role}
	member := invited.Role == roleMember
	if answer.Certificate, err = k.authority.Issue(ask.Name, member, ask.Key); err != nil {
		return nil, fmt.Errorf("%w: %w", errJoin, err)
	}
	ring, err := seal.LoadRing(k.config.Keyring.File) // what is read of it is what it is
	if err != nil {
		return nil, err
	}
	if answer.Keyring, err = os.ReadFile(k.config.Keyring.File); err != nil {
		return nil, fmt.Errorf("read key ring: %w", err)
	}
	if !member {
		answer.Authority = k.authority.Certificate()
		if answer.Clients, err = cluster.Endpoints(ctx, k.client); err != nil {
			return nil, err
		}
		k.log.Info("a node has joined as a client", "name", ask.Name, "root_keys", ring.IDs())
		return answer, nil
	}
	if answer.Authority, err = k.authority.Encode(); err != nil {
		return nil, err
	}
	if ask.Replace {
		if err := k.clearAway(ctx, ask.Name); err != nil {
			return nil, err
		}
	}
	if answer.Peers, err = k.member.Add(ctx, ask.Name, ask.Peer); err != nil {
		return nil, err
	}
	k.log.Info("a node may join as a learner", "name", ask.Name, "peer", ask.Peer, "replaces", ask.Replace, "root_keys", ring.IDs())
	return answer, nil
}

// clearAway removes a dead member, and no other.
func (k *control) clearAway(ctx context.Context, name string) error {
	nodes, err := k.nodes(ctx)
	if err != nil {
		return err
	}
	if at := nodes[name].Control; at != "" && name != k.config.Cluster.Name {
		if _, err := k.ask(ctx, at); err == nil {
			return fmt.Errorf("%w: %s at %s; stop it first, or give the new one another cluster.name", errAlive, name, at)
		}
	}
	if name == k.config.Cluster.Name {
		return fmt.Errorf("%w: %s is this node; ask another one", errAlive, name)
	}
	err = k.member.Remove(ctx, name)
	if errors.Is(err, cluster.ErrNoMember) {
		return nil // an earlier try has removed it
	}
	return err
}

// Remove implements web.Cluster.
func (k *control) Remove(ctx context.Context, name string) error {
	if k.member == nil {
		return fmt.Errorf("%w: this node is a client of the members; ask one of them", web.ErrClusterRefused)
	}
	err := k.member.Remove(ctx, name)
	switch {
	case errors.Is(err, cluster.ErrNoMember):
		return k.forget(ctx, name)
	case errors.Is(err, cluster.ErrNotHealthy):
		return fmt.Errorf("%w: %w", web.ErrClusterRefused, err)
	case err != nil:
		return err
	}
	k.log.Info("a member was removed", "name", name)
	if _, err := k.client.Delete(ctx, nodesPrefix+name); err != nil && name != k.config.Cluster.Name {
		k.log.Warn("the removed member stays in the list of nodes until one of its name comes", "name", name, "err", err)
	}
	return nil
}

// forget takes a client out of the list of nodes.
func (k *control) forget(ctx context.Context, name string) error {
	nodes, err := k.nodes(ctx)
	if err != nil {
		return err
	}
	if nodes[name].Role != roleClient {
		return web.ErrNoNode
	}
	if _, err := k.client.Delete(ctx, nodesPrefix+name); err != nil {
		return fmt.Errorf("forget node %s: %w", name, err)
	}
	return nil
}

// healthAnswer is what a node says of itself to another.
type healthAnswer struct {
	Version string         `json:"version"`
	Member  cluster.Health `json:"member"` // zero on a client
}

func (k *control) health() healthAnswer {
	h := healthAnswer{Version: version}
	if k.member != nil {
		h.Member = k.member.Health()
	}
	return h
}

// nodes is what the nodes have said of themselves. It is read without a majority
// too.
func (k *control) nodes(ctx context.Context) (map[string]registered, error) {
	found, err := k.client.Get(ctx, nodesPrefix, clientv3.WithPrefix(), clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	nodes := map[string]registered{}
	for _, kv := range found.Kvs {
		var one registered
		if json.Unmarshal(kv.Value, &one) == nil {
			nodes[one.Name] = one
		}
	}
	return nodes, nil
}

// askTime is how long another node may take to say how it is.
const askTime = 2 * time.Second

// ask asks another node how it is.
func (k *control) ask(ctx context.Context, at string) (healthAnswer, error) {
	var h healthAnswer
	secure, err := k.identity.Client()
	if err != nil {
		return h, err
	}
	transport := &http.Transport{TLSClientConfig: secure}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/v1/health", nil)
	if err != nil {
		return h, err
	}
	got, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return h, err
	}
	defer got.Body.Close()
	if got.StatusCode != http.StatusOK {
		return h, errors.New(got.Status)
	}
	if err := json.NewDecoder(io.LimitReader(got.Body, 1<<16)).Decode(&h); err != nil {
		return h, fmt.Errorf("read its answer: %w", err)
	}
	return h, nil
}

// Status implements web.Cluster.
func (k *control) Status(ctx context.Context) (web.ClusterStatus, error) {
	known, err := k.nodes(ctx)
	if err != nil {
		return web.ClusterStatus{}, err
	}
	var peers []cluster.Peer
	if k.member != nil {
		peers = k.member.Peers()
	}
	status := web.ClusterStatus{Node: k.config.Cluster.Name, Nodes: []web.NodeStatus{}}
	for _, p := range peers {
		role := "follower"
		if p.Learner {
			role = "learner"
		}
		status.Nodes = append(status.Nodes, web.NodeStatus{Name: p.Name, ID: strconv.FormatUint(p.ID, 16), Role: role, URL: p.URL})
	}
	for name, one := range known {
		switch {
		case slices.ContainsFunc(status.Nodes, func(n web.NodeStatus) bool { return n.Name == name }):
		case one.Role == roleClient:
			status.Nodes = append(status.Nodes, web.NodeStatus{Name: name, Role: roleClient})
		case k.member == nil: // a client knows members by what they said alone
			status.Nodes = append(status.Nodes, web.NodeStatus{Name: name, Role: "follower"})
		}
	}
	health := make([]healthAnswer, len(status.Nodes))
	var asking sync.WaitGroup
	for i := range status.Nodes {
		asking.Go(func() { health[i] = k.look(ctx, &status.Nodes[i], known[status.Nodes[i].Name]) })
	}
	asking.Go(func() {
		reading, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		_, err := k.client.Get(reading, nodesPrefix, clientv3.WithCountOnly(), clientv3.WithPrefix())
		status.Quorum = err == nil
	})
	asking.Wait()
	judge(&status, health)
	slices.SortFunc(status.Nodes, func(a, b web.NodeStatus) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return status, nil
}

// look asks one node and notes what it says.
func (k *control) look(ctx context.Context, n *web.NodeStatus, said registered) healthAnswer {
	n.Version, n.Alarms, n.Problems = said.Version, []string{}, []string{}
	var h healthAnswer
	var err error
	switch {
	case n.Name == k.config.Cluster.Name && n.Name != "":
		h = k.health()
	case n.Name == "":
		n.Problems = append(n.Problems, "was added and has never started; start it, or remove it")
		return h
	case said.Control == "":
		if n.Role != roleClient {
			n.Problems = append(n.Problems, "has not said where it can be asked")
		}
		return h
	default:
		if h, err = k.ask(ctx, said.Control); err != nil {
			n.Problems = append(n.Problems, "does not answer: "+err.Error())
			return h
		}
	}
	m := h.Member
	n.Answers, n.Version = true, h.Version
	if m.ID == 0 {
		return h
	}
	n.ID = strconv.FormatUint(m.ID, 16)
	n.Term, n.Index, n.DBBytes, n.Quota = m.Term, m.Applied, m.Stats.Bytes, m.Stats.QuotaBytes
	n.SyncMS, n.LinkMS = milliseconds(m.Sync), milliseconds(m.Link)
	return h
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// What makes a node sick. etcd wants syncs below 10 ms; a tenth of a second is a
// fifth of the time after which followers call an election.
const (
	slowSync = 100 * time.Millisecond
	slowLink = 200 * time.Millisecond
	farBack  = 1000 // entries: from there on it may need a snapshot
)

// judge says who leads, how far behind the others are, and what is wrong.
func judge(status *web.ClusterStatus, health []healthAnswer) {
	furthest, leader, latest := uint64(0), uint64(0), uint64(0)
	for _, h := range health {
		furthest = max(furthest, h.Member.Committed)
		if h.Member.Leader != 0 && h.Member.Term > latest { // one that was deposed and does not know it is of an earlier term
			leader, latest = h.Member.Leader, h.Member.Term
		}
	}
	for i := range status.Nodes {
		n, m := &status.Nodes[i], health[i].Member
		if m.ID == 0 {
			continue
		}
		add := func(format string, args ...any) { n.Problems = append(n.Problems, fmt.Sprintf(format, args...)) }
		n.Lag = furthest - min(furthest, m.Applied)
		switch {
		case m.ID == leader:
			n.Role, status.Leader = "leader", n.Name
		case m.Learner:
			n.Role = "learner"
			add("has no vote until it is in step")
		}
		if m.Leader == 0 {
			add("knows no leader: it reaches no majority of the others")
		} else if m.Leader != leader {
			add("follows another leader than the others: it is cut off, or has just come back")
		}
		if n.Lag >= farBack {
			add("is %d entries behind: its disk, its processor or its network does not keep up", n.Lag)
		}
		if m.Sync >= slowSync {
			add("its disk is slow: 1 of 100 syncs of its log took %v or more in the last minute; other members do not wait for it unless it leads", m.Sync)
		}
		if m.Link >= slowLink {
			add("its network is slow: 1 of 100 round trips to other members took %v or more in the last minute", m.Link)
		}
		if m.Stats.QuotaBytes > 0 && m.Stats.InUseBytes >= m.Stats.QuotaBytes/10*8 {
			add("its database is %d %% full", m.Stats.InUseBytes*100/m.Stats.QuotaBytes)
		}
		if m.Full {
			n.Alarms = append(n.Alarms, "NOSPACE")
			add("etcd refuses to write until there is room: nobody can sign in")
		}
		if m.Corrupt {
			n.Alarms = append(n.Alarms, "CORRUPT")
			add("its data is not the others': replace it")
		}
	}
}

// sameFile reports whether there is no file at path, or one with just that text.
func sameFile(path string, text []byte) (there bool, err error) {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !bytes.Equal(old, text) {
		return true, fmt.Errorf("%s is there and is another one; move it away", path)
	}
	return true, nil
}
