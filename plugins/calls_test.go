package plugins

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// bench runs guests in a real sandbox, one call at a time.
type bench struct {
	*testing.T
	host   *Host
	tenant string
}

// newBench is a host with one secret, PEPPER, and what else settings has.
func newBench(t *testing.T, settings Settings) *bench {
	t.Helper()
	settings.Config = func(_ context.Context, _, key string) (json.RawMessage, bool, error) {
		return json.RawMessage(`"red"`), key == "colour", nil
	}
	settings.Secret = func(_ context.Context, _, name string) ([]byte, bool, error) {
		return []byte("hot-pepper"), name == "PEPPER", nil
	}
	return &bench{t, NewHost(newPool(t), settings, nil), "a"}
}

var everything = abi.Grants{
	Config: true, Hash: true, HMAC: true, SigVerify: true, TOTP: true, Secrets: []string{"PEPPER", "MISSING"}, Password: []string{"*"},
	KV: &abi.KVGrant{Namespaces: []string{"ns"}}, HTTP: &abi.HTTPGrant{Hosts: []string{"idp.acme.test:443"}, MaxCalls: 5},
}

// run puts a request to a guest that has those grants.
func (b *bench) run(grants abi.Grants, module []byte, nowMS int64) outcome {
	b.Helper()
	return b.ask(&hostCalls{kv: b.host.settings.KV}, grants, module, nowMS)
}

func (b *bench) ask(calls *hostCalls, grants abi.Grants, module []byte, nowMS int64) outcome {
	b.Helper()
	v := Version{
		Number: 1, Name: "probe", Digest: digestOf(module), Profile: "core", Grants: grants,
		Limits: abi.Limits{WallMS: 60_000, MemoryMiB: 32}, // a busy machine is no failure
	}
	calls.host, calls.tenant, calls.version = b.host, b.tenant, v
	request := abi.Request{ABI: abi.Version, Method: "password", NowMS: nowMS}
	out, err := b.host.try(b.Context(), calls, request, func(context.Context) ([]byte, error) { return module, nil })
	if err != nil {
		b.Fatal(err)
	}
	return out
}

func digestOf(module []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(module)) }

var failed = regexp.MustCompile(`(?s)the guest failed with code (-?\d+): ?(.*); stack: `)

// got is what a guest of guesttest.Calls got.
func got(out outcome) (code int, text string) {
	m := failed.FindStringSubmatch(out.Error)
	if m == nil {
		return -1000, out.Error
	}
	code, _ = strconv.Atoi(m[1])
	return code, m[2]
}

// call calls a function once.
func (b *bench) call(grants abi.Grants, name string, args ...any) (code int, text string) {
	b.Helper()
	return got(b.run(grants, guesttest.Calls(name, 1, args...).Module(), 59_000))
}

const (
	rfcSecret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ" // of RFC 6238's appendix B
	rfcCode   = "287082"                           // at 59 s
)

// granted are arguments that each function takes, and what it answers.
var granted = []struct {
	name string
	args []any
	code int        // what the guest gets
	none abi.Grants // everything but what this function needs
}{
	{abi.FuncConfigGet, []any{"colour"}, 3, without(func(g *abi.Grants) { g.Config = false })},
	{abi.FuncSecretGet, []any{"PEPPER"}, 10, without(func(g *abi.Grants) { g.Secrets = []string{"OTHER"} })},
	{abi.FuncSecretHMAC, []any{"PEPPER", abi.AlgSHA256, "data"}, 32, without(func(g *abi.Grants) { g.Secrets = []string{"OTHER"} })},
	{abi.FuncHash, []any{abi.AlgSHA512, "data"}, 64, without(func(g *abi.Grants) { g.Hash = false })},
	{abi.FuncHMAC, []any{abi.AlgSHA384, "key", "data"}, 48, without(func(g *abi.Grants) { g.HMAC = false })},
	{abi.FuncSigVerify, []any{abi.SigEd25519, "no key", "message", "signature"}, abi.ErrInvalid, without(func(g *abi.Grants) { g.SigVerify = false })},
	{abi.FuncPasswordHash, []any{"password"}, 97, without(func(g *abi.Grants) { g.Password = nil })},
	{abi.FuncPasswordVerify, []any{"{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "password"}, 1, without(func(g *abi.Grants) { g.Password = []string{"bcrypt"} })},
	{abi.FuncTOTPVerify, []any{rfcSecret, "000000"}, 0, without(func(g *abi.Grants) { g.TOTP = false })},
	{abi.FuncKVGet, []any{"ns", "nothing"}, abi.ErrNotFound, without(func(g *abi.Grants) { g.KV = &abi.KVGrant{Namespaces: []string{"other"}} })},
	{abi.FuncKVPut, []any{"ns", "put", "value", 60}, 0, without(func(g *abi.Grants) { g.KV = nil })},
	{abi.FuncKVIncr, []any{"ns", "count", 7, 60}, 7, without(func(g *abi.Grants) { g.KV = nil })},
	{abi.FuncKVCAS, []any{"ns", "swap", "", "new", 60}, 1, without(func(g *abi.Grants) { g.KV = nil })},
	{abi.FuncHTTPFetch, []any{`{"url":"https://idp.acme.test/"}`}, abi.ErrUnsupported, without(func(g *abi.Grants) { g.HTTP = nil })}, // there is no Egress here
}

func without(change func(*abi.Grants)) abi.Grants {
	g := everything
	change(&g)
	return g
}

func TestEveryFunctionIsHeldAgainstItsGrant(t *testing.T) {
	b := newBench(t, Settings{})
	for _, f := range granted {
		if code, text := b.call(everything, f.name, f.args...); code != f.code {
			t.Errorf("%s, granted: %d %q, want %d", f.name, code, text, f.code)
		}
		for _, grants := range []abi.Grants{{}, f.none} {
			if code, text := b.call(grants, f.name, f.args...); code != abi.ErrNotGranted {
				t.Errorf("%s, not granted: %d %q", f.name, code, text)
			}
		}
	}
}

func TestEveryFunctionHasABudget(t *testing.T) {
	b := newBench(t, Settings{})
	budgets := map[string]int{
		abi.FuncPasswordHash: 3, abi.FuncPasswordVerify: 3,
		abi.FuncKVGet: 16, abi.FuncKVPut: 16, abi.FuncKVIncr: 16, abi.FuncKVCAS: 16, abi.FuncHTTPFetch: 2,
	}
	grants := everything
	grants.HTTP = &abi.HTTPGrant{Hosts: everything.HTTP.Hosts}
	for i, f := range granted {
		b.tenant = fmt.Sprint("tenant ", i) // writes a second are another budget
		budget := budgets[f.name]
		if budget == 0 {
			budget = abi.MaxHostCalls
		}
		out := b.run(grants, guesttest.Calls(f.name, budget+1, f.args...).Module(), 59_000)
		if code, text := got(out); code != abi.ErrQuota {
			t.Errorf("%s, %d times and once more: %d %q", f.name, budget, code, text)
		}
		for n, made := range out.HostCalls {
			if over := n >= budget; (made.Result == abi.ErrQuota) != over {
				t.Errorf("%s, call %d of %d: %d", f.name, n+1, budget, made.Result)
			}
		}
		if n := len(out.HostCalls); n < budget || n > abi.MaxHostCalls {
			t.Errorf("%s: %d calls came through", f.name, n)
		}
	}
}

// lastText is f's arguments with another in the place of the last byte string.
func lastText(args []any, other any) []any {
	args = slices.Clone(args)
	for i := len(args) - 1; ; i-- {
		if _, isText := args[i].(string); isText {
			args[i] = other
			return args
		}
	}
}

func TestNoArgumentIsTakenThatIsTooLarge(t *testing.T) {
	b := newBench(t, Settings{})
	long := strings.Repeat("x", abi.MaxArgument+1)
	for _, f := range granted {
		if code, text := b.call(everything, f.name, lastText(f.args, long)...); code != abi.ErrTooLarge {
			t.Errorf("%s: %d %.50q", f.name, code, text)
		}
	}
	for _, c := range []struct {
		name string
		args []any
	}{
		{abi.FuncPasswordHash, []any{strings.Repeat("p", abi.MaxPassword+1)}},
		{abi.FuncTOTPVerify, []any{strings.Repeat("A", abi.MaxTOTPSecret+1), "000000"}},
		{abi.FuncSigVerify, []any{abi.SigRS256, strings.Repeat("k", abi.MaxPublicKey+1), "m", "s"}},
		{abi.FuncKVGet, []any{"ns", strings.Repeat("k", abi.MaxKVKey+1)}},
		{abi.FuncKVPut, []any{"ns", "k", strings.Repeat("v", abi.MaxKVValue+1), 1}},
		{abi.FuncKVCAS, []any{"ns", "k", "", strings.Repeat("v", abi.MaxKVValue+1), 1}},
	} {
		if code, text := b.call(everything, c.name, c.args...); code != abi.ErrTooLarge {
			t.Errorf("%s: %d %q", c.name, code, text)
		}
	}
}

func TestAPointerOutsideTrapsInEveryFunction(t *testing.T) {
	b := newBench(t, Settings{})
	for _, f := range granted {
		out := b.run(everything, guesttest.Calls(f.name, 1, lastText(f.args, guesttest.Outside{})...).Module(), 59_000)
		if want := f.name + ": pointer 4294967288 with length 16 is outside"; !strings.Contains(out.Error, want) {
			t.Errorf("%q, want %q", out.Error, want)
		}
		if len(out.HostCalls) > 0 {
			t.Errorf("%s came through all the same", f.name)
		}
	}
}

func TestNoFunctionButConfigAnswersBeforeVerify(t *testing.T) {
	b := newBench(t, Settings{})
	for _, f := range granted {
		g := guesttest.Calls(f.name, 1, f.args...)
		g.Init = true
		want := abi.ErrNotDuringInit
		if f.name == abi.FuncConfigGet {
			want = f.code
		}
		if code, text := got(b.run(everything, g.Module(), 59_000)); code != want {
			t.Errorf("%s: %d %q, want %d", f.name, code, text, want)
		}
	}
}

// A worker that a guest has taken over sends what it likes.
func TestAWorkerIsNotTrustedWithTheLimits(t *testing.T) {
	c := &hostCalls{host: NewHost(nil, Settings{}, nil), tenant: "a", version: Version{Grants: everything}, kv: NewMemoryKV(0)}
	for _, name := range []string{abi.FuncKVPut, abi.FuncHMAC, abi.FuncTOTPVerify, "\x1b[2J", ""} {
		for _, args := range [][][]byte{nil, {{}}, {{}, {}, {}, {}, {}, {}, {}}} {
			if code, _ := c.answer(t.Context(), name, args); code != abi.ErrUnsupported {
				t.Errorf("%q with %d arguments: %d", name, len(args), code)
			}
		}
	}
	if code, _ := c.answer(t.Context(), abi.FuncHash, [][]byte{{1}, make([]byte, abi.MaxArgument+1)}); code != abi.ErrTooLarge {
		t.Errorf("a long argument: %d", code)
	}
	if code, _ := c.answer(t.Context(), abi.FuncKVPut, [][]byte{[]byte("ns"), []byte("k"), []byte("v"), []byte("soon")}); code != 0 {
		t.Errorf("a number that is none: %d", code)
	}
	for range 100 {
		c.answer(t.Context(), "x", nil)
	}
	if code, _ := c.answer(t.Context(), abi.FuncHash, [][]byte{{1}, {}}); code != abi.ErrQuota || len(c.made) != abi.MaxHostCalls {
		t.Errorf("after %d calls: %d", len(c.made), code)
	}
}

func TestDigestsAreTheRealOnes(t *testing.T) {
	// FIPS 180-4's "abc", RFC 4231's case 2.
	b := newBench(t, Settings{})
	for alg, want := range map[int]string{
		abi.AlgSHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		abi.AlgSHA384: "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
	} {
		if _, sum := digest(int64(alg), []byte("abc")); hex.EncodeToString(sum) != want {
			t.Errorf("hash %d: %x", alg, sum)
		}
	}
	const want = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
	if _, sum := mac(abi.AlgSHA256, []byte("Jefe"), []byte("what do ya want for nothing?")); hex.EncodeToString(sum) != want {
		t.Errorf("hmac: %x", sum)
	}
	_, sum := mac(abi.AlgSHA256, []byte("hot-pepper"), []byte("data"))
	if code, text := b.call(everything, abi.FuncSecretHMAC, "PEPPER", abi.AlgSHA256, "data"); code != 32 || !strings.Contains(text, sandbox.Escape(string(sum))) {
		t.Errorf("secret_hmac: %d %q", code, text)
	}
	for _, c := range []struct {
		want int
		name string
		args []any
	}{
		{abi.ErrUnsupported, abi.FuncHash, []any{0, "x"}},
		{abi.ErrUnsupported, abi.FuncHMAC, []any{4, "k", "x"}},
		{abi.ErrUnsupported, abi.FuncSecretHMAC, []any{-1, "x"}},
		{abi.ErrNotFound, abi.FuncSecretHMAC, []any{abi.AlgSHA256, "x"}},
	} {
		if c.name == abi.FuncSecretHMAC {
			secret := map[int]string{abi.ErrUnsupported: "PEPPER", abi.ErrNotFound: "MISSING"}[c.want]
			c.args = append([]any{secret}, c.args...)
		}
		if code, _ := b.call(everything, c.name, c.args...); code != c.want {
			t.Errorf("%s %v: %d", c.name, c.args, code)
		}
	}
}

func TestSignatures(t *testing.T) {
	message := []byte("message")
	sum := sha256.Sum256(message)
	edPublic, edKey, _ := ed25519.GenerateKey(rand.Reader)
	ecKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	other, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	encode := func(public any) []byte {
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	der, _ := ecdsa.SignASN1(rand.Reader, ecKey, sum[:])
	r, s, _ := ecdsa.Sign(rand.Reader, ecKey, sum[:])
	raw := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	pkcs, _ := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, sum[:])
	pss, _ := rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	good := []struct {
		alg       int64
		key       []byte
		signature []byte
	}{
		{abi.SigEd25519, encode(edPublic), ed25519.Sign(edKey, message)},
		{abi.SigES256, encode(&ecKey.PublicKey), raw},
		{abi.SigES256DER, encode(&ecKey.PublicKey), der},
		{abi.SigRS256, encode(&rsaKey.PublicKey), pkcs},
		{abi.SigPS256, encode(&rsaKey.PublicKey), pss},
	}
	for _, g := range good {
		armoured := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: g.key})
		for _, key := range [][]byte{g.key, armoured} {
			if code := verifySignature(g.alg, key, message, g.signature); code != 1 {
				t.Errorf("algorithm %d: %d", g.alg, code)
			}
		}
		bent := append([]byte{}, g.signature...)
		bent[len(bent)-1] ^= 1
		for name, code := range map[string]int32{
			"another message":   verifySignature(g.alg, g.key, []byte("messagf"), g.signature),
			"another signature": verifySignature(g.alg, g.key, message, bent),
			"no signature":      verifySignature(g.alg, g.key, message, nil),
			"a longer one":      verifySignature(g.alg, g.key, message, append(bent, 0)),
			"only zeros":        verifySignature(g.alg, g.key, message, make([]byte, 64)),
		} {
			if code != 0 {
				t.Errorf("algorithm %d, %s: %d", g.alg, name, code)
			}
		}
		for _, another := range good {
			if code := verifySignature(g.alg, g.key, message, another.signature); code == 1 && another.alg != g.alg {
				t.Errorf("a signature of algorithm %d is taken for one of %d", another.alg, g.alg)
			}
		}
		private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: g.key})
		if code := verifySignature(g.alg, private, message, g.signature); code != abi.ErrInvalid {
			t.Errorf("algorithm %d with what says it is private: %d", g.alg, code)
		}
		if code := verifySignature(g.alg, append(armoured, armoured...), message, g.signature); code != abi.ErrInvalid {
			t.Errorf("algorithm %d with two keys: %d", g.alg, code)
		}
	}
	small, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: rsaKey.N.Rsh(rsaKey.N, 1024), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string][]byte{"another curve": encode(&other.PublicKey), "RSA of 1024 bits": small, "nothing": nil} {
		for alg := range int64(5) {
			if code := verifySignature(alg+1, key, message, raw); code != abi.ErrInvalid {
				t.Errorf("%s, algorithm %d: %d", name, alg+1, code)
			}
		}
	}
	if code := verifySignature(0, good[0].key, message, nil); code != abi.ErrUnsupported {
		t.Errorf("algorithm 0: %d", code)
	}
	b := newBench(t, Settings{})
	if code, text := b.call(everything, abi.FuncSigVerify, abi.SigES256, string(good[1].key), "message", string(raw)); code != 1 {
		t.Errorf("from a guest: %d %q", code, text)
	}
}

// A key is the tenant's word, and is read in the server's own process.
func FuzzSignature(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	edPublic, _, _ := ed25519.GenerateKey(rand.Reader)
	ecKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for alg, public := range map[int64]any{abi.SigRS256: &key.PublicKey, abi.SigPS256: &key.PublicKey, abi.SigEd25519: edPublic, abi.SigES256: &ecKey.PublicKey, abi.SigES256DER: &ecKey.PublicKey} {
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(alg, der, []byte("message"), make([]byte, 256))
		f.Add(alg, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), []byte("message"), make([]byte, 64))
	}
	f.Fuzz(func(t *testing.T, alg int64, key, message, signature []byte) {
		if code := verifySignature(alg, key, message, signature); code > 1 {
			t.Errorf("%d", code)
		}
	})
}

func TestTOTP(t *testing.T) {
	key, ok := totpKey(rfcSecret)
	if !ok {
		t.Fatal("no key")
	}
	// RFC 6238 appendix B, SHA-1, the last six of its eight digits.
	for now, code := range map[int64]string{59: rfcCode, 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		for _, off := range []int64{-30, 0, 30} {
			if step, ok := totpMatch(key, code, now+off); !ok || step != now/30 {
				t.Errorf("%s at %d+%d: step %d, %v", code, now, off, step, ok)
			}
		}
		for _, off := range []int64{-90, 90} {
			if _, ok := totpMatch(key, code, now+off); ok {
				t.Errorf("%s is taken %d s off", code, off)
			}
		}
	}
	for _, code := range []string{"", "28708", "2870820", "abcdef", " 287082", "２８７０８２"} {
		if _, ok := totpMatch(key, code, 59); ok {
			t.Errorf("%q is taken", code)
		}
	}
	if copied, ok := totpKey("gezd gnbv gy3t qojq gezd gnbv gy3t qojq="); !ok || string(copied) != string(key) {
		t.Error("a secret as people copy it is not read")
	}
	for _, secret := range []string{"", "  ", "not base32!", "="} {
		if _, ok := totpKey(secret); ok {
			t.Errorf("%q is taken for a secret", secret)
		}
	}
}

// The verifier users once took a code as often as it came within its 90 seconds:
// who looked over a shoulder signed in too.
func TestACodeIsGoodOnce(t *testing.T) {
	b := newBench(t, Settings{})
	totp := func(tenant, secret, code string, at int64) int {
		t.Helper()
		b.tenant = tenant
		n, _ := got(b.run(everything, guesttest.Calls(abi.FuncTOTPVerify, 1, secret, code).Module(), at*1000))
		return n
	}
	if n := totp("a", rfcSecret, "000000", 59); n != 0 {
		t.Errorf("a wrong code: %d", n)
	}
	if n := totp("a", rfcSecret, rfcCode, 59); n != 1 {
		t.Errorf("a right code: %d", n)
	}
	for _, at := range []int64{59, 30, 89} { // wherever it is right, and however the secret is written
		if n := totp("a", strings.ToLower(rfcSecret)+"==", rfcCode, at); n != 0 {
			t.Errorf("the same at %d: %d", at, n)
		}
	}
	if n := totp("b", rfcSecret, rfcCode, 59); n != 1 {
		t.Errorf("another tenant's user with the same secret: %d", n)
	}
	if n := totp("a", rfcSecret, "not it", 59); n != 0 {
		t.Errorf("no code: %d", n)
	}
	if n := totp("a", "not base32!", rfcCode, 59); n != abi.ErrInvalid {
		t.Errorf("no secret: %d", n)
	}
	// A try and a vector spend nobody's code.
	module := guesttest.Calls(abi.FuncTOTPVerify, 1, rfcSecret, "081804").Module()
	v := Version{Digest: digestOf(module), Profile: "core", Grants: everything, Limits: abi.Limits{WallMS: 5000, MemoryMiB: 32}}
	for range 2 {
		trace, err := b.host.trace(t.Context(), "a", v, abi.Request{NowMS: 1111111109_000}, func(context.Context) ([]byte, error) { return module, nil })
		if err != nil || !strings.Contains(trace.Error, "failed with code 1:") {
			t.Errorf("a try: %s, %v", trace.Error, err)
		}
	}
}

// down is a store that does not answer.
type down struct{ KV }

func (down) Swap(context.Context, Slot, []byte, []byte, time.Duration) (bool, error) {
	return false, ErrUnavailable
}

func TestACodeThatCannotBeGuardedIsNotTaken(t *testing.T) {
	b := newBench(t, Settings{KV: down{}})
	if code, _ := b.call(everything, abi.FuncTOTPVerify, rfcSecret, rfcCode); code != abi.ErrInternal {
		t.Errorf("%d, want %d", code, abi.ErrInternal)
	}
}

func TestWhatAVerifierKeeps(t *testing.T) {
	b := newBench(t, Settings{})
	for i, step := range []struct {
		name string
		args []any
		code int
		text string
	}{
		{abi.FuncKVGet, []any{"ns", "k"}, abi.ErrNotFound, ""},
		{abi.FuncKVPut, []any{"ns", "k", "value", 60}, 0, ""},
		{abi.FuncKVGet, []any{"ns", "k"}, 5, "value"},
		{abi.FuncKVCAS, []any{"ns", "k", "other", "new", 0}, 0, ""},
		{abi.FuncKVCAS, []any{"ns", "k", "value", "41", abi.MaxKVTTL}, 1, ""},
		{abi.FuncKVIncr, []any{"ns", "k", 1, 60}, 42, ""},
		{abi.FuncKVIncr, []any{"ns", "k", -43, 60}, abi.ErrInvalid, ""},
		{abi.FuncKVGet, []any{"ns", "k"}, 2, "42"},
		{abi.FuncKVPut, []any{"ns", "k", "", 60}, 0, ""},
		{abi.FuncKVGet, []any{"ns", "k"}, abi.ErrNotFound, ""},
		{abi.FuncKVPut, []any{"ns", "k", "v", -1}, abi.ErrInvalid, ""},
		{abi.FuncKVPut, []any{"ns", "k", "v", abi.MaxKVTTL + 1}, abi.ErrInvalid, ""},
		{abi.FuncKVPut, []any{"", "k", "v", 1}, abi.ErrNotGranted, ""}, // the host's own
		{abi.FuncKVGet, []any{"", "k"}, abi.ErrNotGranted, ""},
	} {
		if code, text := b.call(everything, step.name, step.args...); code != step.code || text != step.text {
			t.Errorf("step %d, %s: %d %q, want %d %q", i, step.name, code, text, step.code, step.text)
		}
	}
}

func TestATenantWritesSoOftenASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHost(nil, Settings{}, nil)
		write := func(tenant string) int32 {
			c := &hostCalls{host: h, tenant: tenant, version: Version{Grants: everything}, kv: h.settings.KV}
			code, _ := c.answer(t.Context(), abi.FuncKVPut, [][]byte{[]byte("ns"), []byte("k"), []byte("v"), {7: 9}})
			return code
		}
		for n := range abi.MaxKVWrites {
			if code := write("a"); code != 0 {
				t.Fatalf("write %d: %d", n+1, code)
			}
		}
		if code := write("a"); code != abi.ErrBusy {
			t.Errorf("one more: %d", code)
		}
		if code := write("b"); code != 0 {
			t.Errorf("another tenant: %d", code)
		}
		time.Sleep(time.Second)
		if code := write("a"); code != 0 {
			t.Errorf("a second later: %d", code)
		}
	})
}

func TestFetch(t *testing.T) {
	var connections atomic.Int32
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen", r.Header.Get("X-Key"))
		switch r.URL.Path {
		case "/bytes":
			w.Write([]byte{0xff, 0xfe})
		case "/large":
			w.Write(make([]byte, abi.MaxHTTPBody+1))
		default:
			fmt.Fprintf(w, "%s of %s", r.Method, r.Host)
		}
	}), ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })

	host := l.Addr().String()
	client, err := egress.New(egress.Config{Allow: []string{host}})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Settings{Egress: client})
	grants := abi.Grants{HTTP: &abi.HTTPGrant{Hosts: []string{host, "127.0.0.1:443"}}}
	for name, c := range map[string]struct {
		request string
		code    int
		text    string
	}{
		"text":         {`{"method":"POST","url":"http://` + host + `/","headers":{"X-Key":"k"},"body":"b"}`, 0, `"body":"POST of ` + host},
		"a header":     {`{"url":"http://` + host + `/","headers":{"X-Key":"k"}}`, 0, `"x-seen":["k"]`},
		"bytes":        {`{"url":"http://` + host + `/bytes"}`, 0, `"body_base64":"//4="`},
		"too large":    {`{"url":"http://` + host + `/large"}`, abi.ErrTooLarge, ""},
		"not granted":  {`{"url":"https://elsewhere.test/"}`, abi.ErrNotGranted, ""},
		"not open":     {`{"url":"https://127.0.0.1:22/"}`, abi.ErrNotGranted, ""},
		"out of reach": {`{"url":"https://127.0.0.1/"}`, abi.ErrUpstream, ""},
		"not JSON":     {`https://` + host, abi.ErrInvalid, ""},
		"no URL":       {`{}`, abi.ErrInvalid, ""},
		"two bodies":   {`{"url":"http://` + host + `/","body":"b","body_base64":"Yg=="}`, abi.ErrInvalid, ""},
	} {
		out := b.run(grants, guesttest.Calls(abi.FuncHTTPFetch, 1, c.request).Module(), 59_000)
		code, text := got(out)
		if c.code == 0 && (code <= 0 || !strings.Contains(text, c.text)) || c.code < 0 && code != c.code {
			t.Errorf("%s: %d %q, want %d %q", name, code, text, c.code, c.text)
		}
		if c.code < 0 && len(out.Logs) == 0 {
			t.Errorf("%s: the tenant is not told why", name)
		}
	}
	if egress.MaxBody != abi.MaxHTTPBody {
		t.Errorf("the contract says %d bytes, egress %d", abi.MaxHTTPBody, egress.MaxBody)
	}
	// An upload's vectors make no connections.
	before := connections.Load()
	out := b.ask(&hostCalls{kv: NewMemoryKV(0), offline: true}, grants, guesttest.Calls(abi.FuncHTTPFetch, 1, `{"url":"http://`+host+`/"}`).Module(), 0)
	if code, _ := got(out); code != abi.ErrUpstream || connections.Load() != before {
		t.Errorf("a vector: %d, %d connections", code, connections.Load()-before)
	}
}

// Secrets that a call had to do with are in none of its texts, in whatever form
// a log has them.
func TestSecretsAreStruckOutOfLogs(t *testing.T) {
	c := &hostCalls{}
	c.hide([]byte("first line\nsecond line\n"))
	c.hide([]byte("\x00\x01\x02binary"))
	for _, text := range []string{"it is first line!", "second line", `first line\nsecond line\n`, sandbox.Escape("\x00\x01\x02binary"), "\x00\x01\x02binary"} {
		if got := c.redact(text); strings.Contains(got, "line") && !strings.Contains(got, "redacted") || strings.Contains(got, "binary") {
			t.Errorf("%q is shown as %q", text, got)
		}
	}
	// One may begin another, whose rest once stayed.
	c = &hostCalls{secrets: [][]byte{[]byte("hunter2"), []byte("hunter2-and-more")}}
	if got := c.redact("hunter2-and-more, hunter2"); got != "redacted, redacted" {
		t.Errorf("shown as %q", got)
	}
	// Guests print requests, which are JSON, and a credential may have any form.
	c = &hostCalls{secrets: typed(abi.Credential{"username": "alice", "password": "a\"b\\c\u2028é", "otp": 123456.0, "more": map[string]any{"list": []any{"deep-secret"}}})}
	request := `{"username":"alice","password":"a\"b\\c\u2028é","otp":123456,"more":{"list":["deep-secret"]}}`
	if got := c.redact(request); got != `{"username":"alice","password":"redacted","otp":redacted,"more":{"list":["redacted"]}}` {
		t.Errorf("shown as %s", got)
	}
	b := newBench(t, Settings{})
	if _, text := b.call(everything, abi.FuncSecretGet, "PEPPER"); text != "redacted" {
		t.Errorf("a guest that fails with its secret: %q", text)
	}
}

func TestARemovedTenantKeepsNothing(t *testing.T) {
	c := newCatalog(t)
	s := Slot{Tenant: "a", Verifier: "v", Namespace: "ns", Key: "k"}
	kv := c.host.settings.KV
	if err := kv.Put(t.Context(), s, []byte("v"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := c.RemoveTenant(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if got, err := kv.Get(t.Context(), s); err != nil || got != nil {
		t.Errorf("%q, %v", got, err)
	}
}
