package plugins

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// CatalogConfig tunes a Catalog. The zero value is ready.
type CatalogConfig struct {
	MaxModule int          // bytes of a module, at most abi.MaxModule; 0: abi.DefaultModule
	Nodes     Nodes        // that share the artifacts; nil: this one is alone
	Log       *slog.Logger // nil discards
}

// Bounds of one tenant's versions.
const (
	keepVersions   = 20
	maxTenantBytes = 64 << 20

	// A version that is no longer active may still be asked to decide: a login that
	// it was deciding may have come to a challenge, the answer to that to another.
	keepRetired = 4 * abi.MaxTTL * time.Second
	maxVersions = 100 // with those; who activates more within that hour loses the oldest

	maxBeside = 128 << 10 // bytes of one beside a module: an activation writes two in one transaction
)

// Catalog is the life of tenants' verifiers. Safe for use by many goroutines.
type Catalog struct {
	artifacts Artifacts
	host      *Host
	cfg       CatalogConfig
	ahead     *backlog
}

// NewCatalog returns a Catalog over artifacts whose modules run in host.
func NewCatalog(artifacts Artifacts, host *Host, cfg CatalogConfig) *Catalog {
	if cfg.MaxModule == 0 {
		cfg.MaxModule = abi.DefaultModule
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Catalog{artifacts: artifacts, host: host, cfg: cfg, ahead: newBacklog()}
}

// Upload examines a module in a compile child, runs its vectors, and stages it
// as the tenant's next version. manifest, when there is one beside the module,
// must be the same as the module's own, or the module must have none.
// ErrInvalid says what, where and what to do, ErrQueueFull and ErrQuota what to do;
// then nothing is stored. The version has its GrantsDiff.
func (c *Catalog) Upload(ctx context.Context, tenant string, module, manifest []byte) (Version, error) {
	if err := sizes(module, manifest, c.cfg.MaxModule); err != nil {
		return Version{}, err
	}
	pointer, versions, err := c.all(ctx, tenant)
	if err != nil {
		return Version{}, err
	}
	if err := room(versions, pointer, len(module)); err != nil {
		return Version{}, err
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(module))
	report, err := c.host.pool.Compile(ctx, tenant, digest, module)
	if err != nil {
		return Version{}, compileError(err)
	}
	v, vectors, err := describe(report, manifest)
	if err != nil {
		return Version{}, err
	}
	v.Digest, v.Size, v.State, v.CreatedAt = digest, len(module), Staged, now()
	if err := c.host.vectors(ctx, tenant, &v, module, vectors); err != nil {
		return Version{}, err
	}
	active, err := c.Active(ctx, tenant)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Version{}, err
	}
	if v.Number, err = c.artifacts.Add(ctx, tenant, v, module); errors.Is(err, ErrQuota) {
		return Version{}, fmt.Errorf("store version: %w; %s, or versions of other tenants", err, deletable(versions, pointer))
	}
	if err != nil {
		return Version{}, fmt.Errorf("store version: %w", err)
	}
	c.tidy(ctx, tenant, append(versions, v))
	return c.shown(tenant, v, active), nil
}

// sizes refuses an upload that is too large, or no upload.
func sizes(module, manifest []byte, most int) error {
	switch {
	case len(module) > most:
		return fmt.Errorf("%w: the module has %d bytes; %d are the limit", ErrInvalid, len(module), most)
	case len(module) == 0:
		return fmt.Errorf("%w: the module is empty", ErrInvalid)
	case len(manifest) > maxBeside:
		return fmt.Errorf("%w: the manifest beside the module has %d bytes; %d are the limit; a larger one may be in the module's section %s", ErrInvalid, len(manifest), maxBeside, abi.ManifestSection)
	}
	return nil
}

// shown is a version as operators see it, beside the active one: with what its
// activation would change, and with what this node knows of it.
func (c *Catalog) shown(tenant string, v, active Version) Version {
	v.Manifest = nil
	v.Node, v.NodeUntil = c.host.standing(tenant, v)
	switch {
	case v.Number == active.Number:
		if v.Node == NodeQuarantined {
			v.State = Quarantined
		}
	case active.Number > 0:
		diff := Compare(active, v)
		v.GrantsDiff = &diff
	}
	return v
}

// room refuses a module that the tenant has no room for. A module that it has
// already takes none.
func room(versions []Version, at Pointer, size int) error {
	seen, total := map[string]bool{}, size
	for _, v := range versions {
		if !seen[v.Digest] {
			seen[v.Digest] = true
			total += v.Size
		}
	}
	if total > maxTenantBytes {
		return fmt.Errorf("%w: the tenant's modules would take %d bytes of %d; %s", ErrQuota, total, maxTenantBytes, deletable(versions, at))
	}
	return nil
}

// deletable says which versions to delete to make room: not the active one, nor the
// one before it, to which a rollback goes, nor others of the same modules, which
// take none.
func deletable(versions []Version, at Pointer) string {
	kept := map[string]bool{}
	for _, v := range versions {
		if v.Number == at.Active || v.Number == at.Previous {
			kept[v.Digest] = true
		}
	}
	var spare []string
	for _, v := range versions {
		if !kept[v.Digest] {
			spare = append(spare, fmt.Sprintf("%d (%d KiB)", v.Number, (v.Size+1023)>>10))
		}
	}
	if len(spare) == 0 {
		return "this tenant has no version that can be deleted but the one that a rollback would go back to"
	}
	return "delete versions of this tenant that are not needed: " + strings.Join(spare, ", ")
}

// tidy removes the oldest versions beyond those that are kept, but for the
// active one, the one before it, and those that were active lately: the answers
// to challenges that they issued are theirs to decide. It is housekeeping: what fails is tried
// again at the next upload.
func (c *Catalog) tidy(ctx context.Context, tenant string, versions []Version) {
	pointer, err := c.artifacts.Active(ctx, tenant)
	for i, v := range versions[:max(0, len(versions)-keepVersions)] {
		if err != nil {
			break
		}
		late := len(versions)-i <= maxVersions && time.Since(v.RetiredAt) <= keepRetired
		if v.Number != pointer.Active && v.Number != pointer.Previous && !late {
			err = c.artifacts.Remove(ctx, tenant, v.Number)
		}
	}
	if err != nil {
		c.cfg.Log.Warn("old verifier versions not removed", "tenant", tenant, "err", err)
	}
}

// List returns the tenant's versions by number, with their GrantsDiff, and with how
// they stand on this node. The active one is Quarantined where this node does not
// run it for a while.
func (c *Catalog) List(ctx context.Context, tenant string) ([]Version, error) {
	pointer, versions, err := c.all(ctx, tenant)
	if err != nil {
		return nil, err
	}
	active, _ := find(versions, pointer.Active) // none: nothing to compare with
	for i, v := range versions {
		versions[i] = c.shown(tenant, v, active)
	}
	return versions, nil
}

// all is everything stored of a tenant's versions. The pointer is read first: it
// is what SetActive compares.
func (c *Catalog) all(ctx context.Context, tenant string) (Pointer, []Version, error) {
	pointer, err := c.artifacts.Active(ctx, tenant)
	if err != nil {
		return pointer, nil, fmt.Errorf("read active version: %w", err)
	}
	versions, err := c.artifacts.Versions(ctx, tenant)
	if err != nil {
		return pointer, nil, fmt.Errorf("list versions: %w", err)
	}
	return pointer, versions, nil
}

// Get returns one version as List does, or ErrNotFound.
func (c *Catalog) Get(ctx context.Context, tenant string, number int) (Version, error) {
	v, err := c.version(ctx, tenant, number)
	if err != nil {
		return Version{}, err
	}
	active, err := c.Active(ctx, tenant)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Version{}, err
	}
	return c.shown(tenant, v, active), nil
}

// version is one version as it is stored, by one read.
func (c *Catalog) version(ctx context.Context, tenant string, number int) (Version, error) {
	v, err := c.artifacts.Version(ctx, tenant, number)
	if err != nil {
		return Version{}, fmt.Errorf("read version %d: %w", number, err)
	}
	return v, nil
}

func find(versions []Version, number int) (Version, error) {
	for _, v := range versions {
		if v.Number == number && number > 0 {
			return v, nil
		}
	}
	return Version{}, ErrNotFound
}

// Active returns the version that decides logins, or ErrNotFound.
func (c *Catalog) Active(ctx context.Context, tenant string) (Version, error) {
	v, err := c.artifacts.ActiveVersion(ctx, tenant)
	if err != nil {
		return Version{}, fmt.Errorf("read active version: %w", err)
	}
	return v, nil
}

// Activate lets a version decide the tenant's logins, on every node from its
// next login on, once every live node has compiled it or 30 s are over; then
// NodesPending names the others. For the one that does already it lifts a
// quarantine on this node. Vectors that another engine ran run again first. ErrConflict when the
// version has failed vectors, or, unless approve is set, when it is granted what
// the active one is not; what is approved is what it adds to the version that it
// takes over from, and to no other: ErrConflict when another came in between.
func (c *Catalog) Activate(ctx context.Context, tenant string, number int, approve bool) (Version, error) {
	pointer, versions, err := c.all(ctx, tenant)
	if err != nil {
		return Version{}, err
	}
	v, err := find(versions, number)
	if err != nil {
		return Version{}, err
	}
	if pointer.Active == number {
		c.host.pool.Lift(tenant, v.Digest)
		return c.shown(tenant, v, v), nil
	}
	if old, err := find(versions, pointer.Active); err == nil && !approve {
		if added := addedGrants(old.Grants, v.Grants); len(added) > 0 {
			return Version{}, fmt.Errorf("%w: version %d is granted what version %d is not: %s; approve with \"approve_grants\": true (--approve-grants)", ErrConflict, number, old.Number, strings.Join(added, ", "))
		}
	}
	if v.Engine != sandbox.Engine() {
		if v, err = c.again(ctx, tenant, v); err != nil {
			return Version{}, err
		}
		versions[slices.IndexFunc(versions, func(old Version) bool { return old.Number == number })] = v
	}
	if v.Vectors.Failed > 0 {
		return Version{}, fmt.Errorf("%w: version %d failed %d of its %d vectors on %s: %s", ErrConflict, number, v.Vectors.Failed, v.Vectors.Failed+v.Vectors.Passed, v.Engine, strings.Join(v.Warnings, "; "))
	}
	pending, err := c.everywhere(ctx, tenant, v, activationWait)
	if err != nil {
		return Version{}, fmt.Errorf("have every node compile version %d: %w", number, err)
	}
	v, err = c.point(ctx, tenant, versions, pointer, Pointer{Active: number, Previous: pointer.Active})
	v.NodesPending = pending
	return v, err
}

// again runs the vectors of a version that another engine or rewriter ran, and
// returns it with the new receipt.
func (c *Catalog) again(ctx context.Context, tenant string, v Version) (Version, error) {
	module, err := c.artifacts.Module(ctx, v.Digest)
	if err != nil {
		return Version{}, fmt.Errorf("read module of version %d: %w", v.Number, err)
	}
	report, err := c.host.pool.Compile(ctx, tenant, v.Digest, module)
	if err != nil && !errors.Is(err, sandbox.ErrModule) {
		return Version{}, compileError(err)
	}
	var now Version
	var vectors []abi.Vector
	if err == nil {
		now, vectors, err = describe(report, v.Manifest)
	}
	if err == nil && len(vectors) != v.Vectors.Passed+v.Vectors.Failed {
		err = errors.New("its vectors came beside it and were not kept")
	}
	if err != nil {
		return Version{}, fmt.Errorf("%w: version %d was examined by another engine, and is not taken by %s as it is; upload it again: %v", ErrConflict, v.Number, sandbox.Engine(), err) // not %w: the upload would be invalid, this is not
	}
	v.Warnings, v.Vectors = now.Warnings, Tally{}
	err = c.host.vectors(ctx, tenant, &v, module, vectors)
	return v, err
}

// Rollback makes the version active that was so before, at once: its vectors are
// not run, and no node is waited for. NodesPending names those that had not
// compiled it half a second later. ErrConflict when there is none.
func (c *Catalog) Rollback(ctx context.Context, tenant string) (Version, error) {
	pointer, versions, err := c.all(ctx, tenant)
	if err != nil {
		return Version{}, err
	}
	if _, err := find(versions, pointer.Previous); err != nil {
		return Version{}, fmt.Errorf("%w: no version was active before this one", ErrConflict)
	}
	v, err := c.point(ctx, tenant, versions, pointer, Pointer{Active: pointer.Previous, Previous: pointer.Active})
	if err != nil {
		return Version{}, err
	}
	if v.NodesPending, err = c.everywhere(ctx, tenant, v, rollbackWait); err != nil {
		c.cfg.Log.Warn("after a rollback it is not known which nodes have compiled the version", "tenant", tenant, "version", v.Number, "err", err)
	}
	return v, nil
}

// point moves the pointer, with the states that go with it, and has a worker
// load what is active now.
func (c *Catalog) point(ctx context.Context, tenant string, versions []Version, from, to Pointer) (Version, error) {
	var active Version
	var changed []Version
	for _, v := range versions {
		switch v.Number {
		case to.Active:
			v.State, v.ActivatedAt = Active, now()
			active = v
		case from.Active:
			v.State, v.RetiredAt = Retired, now()
		default:
			continue
		}
		changed = append(changed, v)
	}
	if err := c.artifacts.SetActive(ctx, tenant, from, to, changed); err != nil {
		return Version{}, fmt.Errorf("activate version %d: %w", to.Active, err)
	}
	if err := c.host.warm(ctx, tenant, active, c.moduleOf(active)); err != nil {
		c.cfg.Log.Debug("active verifier not loaded ahead of its first login", "tenant", tenant, "err", err)
	}
	return c.shown(tenant, active, active), nil
}

// Delete removes a version that is not active: ErrConflict, ErrNotFound. Logins
// that wait for an answer to its challenges begin anew: a version that must not
// decide any more is not kept alive by them.
func (c *Catalog) Delete(ctx context.Context, tenant string, number int) error {
	if _, err := c.version(ctx, tenant, number); err != nil {
		return err
	}
	if err := c.artifacts.Remove(ctx, tenant, number); err != nil {
		return fmt.Errorf("remove version %d: %w", number, err)
	}
	return nil
}

// Try runs a version on a made-up request and shows all it did. It signs nobody
// in. Trouble of the guest is in the Trace, not an error.
func (c *Catalog) Try(ctx context.Context, tenant string, number int, request abi.Request) (Trace, error) {
	v, err := c.version(ctx, tenant, number)
	if err != nil {
		return Trace{}, err
	}
	trace, err := c.host.trace(ctx, tenant, v, request, c.moduleOf(v))
	if strings.Contains(trace.Error, atStack) {
		// Whose functions these are is worth a read to who tries; a login's log has
		// numbers.
		if module, err := c.artifacts.Module(ctx, v.Digest); err == nil {
			trace.Error = nameStack(trace.Error, module)
		}
	}
	return trace, err
}

// Verify puts a login to a version of the tenant's, the active one unless the
// call names another. Nothing is compiled for it: where this node has not compiled
// the active version yet, the one before it decides. It implements
// service.Verifier.
func (c *Catalog) Verify(ctx context.Context, call Call) (Answer, error) {
	v, err := c.decider(ctx, call)
	if err != nil {
		return Answer{}, fmt.Errorf("%w: %w", ErrVerifier, err)
	}
	verdict, err := c.host.verify(ctx, call.Tenant, v, call.Request, c.moduleOf(v))
	if errors.Is(err, ErrPending) {
		line := LogEntry{Version: v.Number, Level: "warn", RequestID: call.Request.RequestID,
			Text: fmt.Sprintf("version %d is not compiled on this node yet; until it is, nobody signs in with it here", v.Number)}
		if old, ok := c.before(ctx, call.Tenant, v); ok && call.Version == 0 {
			line.Text = fmt.Sprintf("version %d is not compiled on this node yet; version %d decides here until it is", v.Number, old.Number)
			v = old
			verdict, err = c.host.verify(ctx, call.Tenant, v, call.Request, c.moduleOf(v))
		}
		c.host.logs.add(call.Tenant, line)
	}
	if err != nil {
		return Answer{}, err
	}
	return Answer{Verdict: verdict, Version: v.Number, Digest: v.Digest}, nil
}

func (c *Catalog) decider(ctx context.Context, call Call) (Version, error) {
	if call.Version > 0 {
		v, err := c.version(ctx, call.Tenant, call.Version)
		if errors.Is(err, ErrNotFound) {
			c.host.logs.add(call.Tenant, LogEntry{Version: call.Version, Level: "warn", Text: "a challenge of this version was answered, but the version is deleted; the user has to sign in again", RequestID: call.Request.RequestID})
		}
		return v, err
	}
	v, err := c.Active(ctx, call.Tenant)
	if errors.Is(err, ErrNotFound) {
		return Version{}, errors.New("the tenant has no active verifier")
	}
	return v, err
}

func (c *Catalog) moduleOf(v Version) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) { return c.artifacts.Module(ctx, v.Digest) }
}

// Logs returns what the tenant's verifier wrote and how its calls failed, lately
// and on this node, the oldest first.
func (c *Catalog) Logs(tenant string) []LogEntry { return c.host.logs.of(tenant) }

// Follow reads the same as it is written, beginning after the line with that ID,
// with the oldest that is kept for 0 or an ID that is not this node's.
// ErrFollowed when too many do; who is done must Close it.
func (c *Catalog) Follow(tenant string, after int64) (*LogReader, error) {
	return c.host.logs.follow(tenant, after)
}

// RemoveTenant removes every version of a tenant, and what they kept.
// Idempotent.
func (c *Catalog) RemoveTenant(ctx context.Context, tenant string) error {
	if err := c.host.settings.KV.RemoveTenant(ctx, tenant); err != nil {
		return fmt.Errorf("remove what verifiers kept: %w", err)
	}
	if err := c.artifacts.RemoveTenant(ctx, tenant); err != nil {
		return fmt.Errorf("remove verifiers of tenant: %w", err)
	}
	c.host.forget(tenant)
	return nil
}

// addedGrants lists what b is granted and a is not, as manifest lines. What is
// less than a has is nothing that is added.
func addedGrants(a, b abi.Grants) []string {
	if slices.Contains(a.Password, "*") { // all schemes
		b.Password = nil
	}
	if a.HTTP != nil && b.HTTP != nil && b.HTTP.MaxCalls <= fetchBudget(a.HTTP) {
		b.HTTP = &abi.HTTPGrant{Hosts: b.HTTP.Hosts}
	}
	had := grantLines(a)
	lines := append([]string{}, grantLines(b)...)
	return slices.DeleteFunc(lines, func(line string) bool { return slices.Contains(had, line) })
}

// now is the time as versions keep it: UTC, whole milliseconds, like every time
// that is published.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
