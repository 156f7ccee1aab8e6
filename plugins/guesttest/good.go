package guesttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/doorward/doorward/sdk/abi"
)

// World is what a host that is examined has around it.
type World struct {
	Config  map[string]string // a tenant's configuration, as the guest gets it
	Secrets map[string]string // a tenant's secrets
	Broken  string            // a secret whose look-up fails, and not for want of one

	// Open is a host:port that the operator has opened, by plain http. What answers
	// there is a Upstream. At Closed, which is open too, nobody answers.
	Open, Closed string
}

// NewWorld is the world that Good is about, with an upstream at those addresses.
func NewWorld(open, closed string) World {
	return World{
		Config:  map[string]string{"colour": "red", "empty": "", "list": `[1,2,"three"]`},
		Secrets: map[string]string{"PEPPER": "hot-pepper"},
		Broken:  "BROKEN", Open: open, Closed: closed,
	}
}

// Good is one guest that does one thing as the contract has it, and what comes of
// it at any host that keeps the contract. The guests look for themselves: one that
// finds something else than it should fails, and says what.
type Good struct {
	Name   string // what the host does
	Module []byte
	Grants abi.Grants
	Logins []Turn // in this order, at one tenant that has nothing else
}

// Turn is one request to a guest, and its verdict as JSON, with what a host fills
// in; "" when there is none. "state" stands for the private part of the last
// challenge.
type Turn struct {
	Request abi.Request
	Want    string
}

// do is one thing that a guest does. It fails when the result is not want, an int
// or an int64, or a text, which is looked up with result_read; nil is anything. A
// do without a name looks whether its text is in memory at that place.
type do struct {
	name string
	args []any
	want any
}

// span is an argument: so many bytes of the guest's memory.
type span struct{ at, length int }

// scratch is where guests have room, and result where results go.
const (
	scratch = 4 << 16
	result  = 5 << 16
	page    = 1 << 16
)

func gives(name string, want any, args ...any) do { return do{name, args, want} }

// found looks at memory.
func found(at int, text string) do { return do{want: text, args: []any{at}} }

// ok is what a guest answers when all was as it should be.
const ok = `{"decision":"accept","subject":"ok"}`

// does is a guest that does these things and accepts.
func does(steps ...do) Guest { return doing(ok, steps...) }

// doing is does with another answer.
func doing(answer string, steps ...do) Guest {
	a := &assembly{}
	code := a.code(steps)
	at := a.put(answer)
	code = join(code, i32(int32(at)), i32(int32(len(answer))), call(a.function(abi.Module, abi.FuncOutputWrite, 2, true)), drop, i32(0))
	return a.guest(code)
}

// assembly is a guest that is being written.
type assembly struct {
	imports []Import
	data    []byte
}

func (a *assembly) guest(code []byte) Guest {
	if len(a.data) > scratch {
		panic("guesttest: the data of a good guest reaches into its scratch")
	}
	return Guest{Imports: a.imports, Data: a.data, Pages: 8, Locals: 2, Globals: 2, Code: code}
}

func (a *assembly) put(text string) int {
	at := len(a.data)
	a.data = append(a.data, text...)
	return at
}

// function is the index of an import, which it makes if there is none yet.
func (a *assembly) function(module, name string, params int, gives bool) uint32 {
	at := slices.IndexFunc(a.imports, func(i Import) bool { return i.Module == module && i.Name == name })
	if at < 0 {
		at = len(a.imports)
		a.imports = append(a.imports, Import{module, name, params, gives})
	}
	return uint32(at)
}

// silent are functions without a result.
var silent = []string{abi.FuncFail, abi.FuncLog, "proc_exit"}

const (
	got   = 1 // locals of verify, after its parameter
	index = 2
	opNe  = 0x47
)

func (a *assembly) code(steps []do) (code []byte) {
	for n, s := range steps {
		why := fmt.Sprintf("step %d, %s: it wants %.40v", n+1, s.name, s.want)
		text := a.put(why)
		fails := func(what ...byte) []byte {
			return join(what, i32(int32(text)), i32(int32(len(why))), call(a.function(abi.Module, abi.FuncFail, 3, false)), []byte{opUnreachable})
		}
		if s.name == "" {
			code = join(code, a.compare(s.args[0].(int), s.want.(string), fails))
			continue
		}
		module, params := abi.Module, 0
		if wasi := []string{"fd_", "clock_", "random_", "environ_", "args_", "proc_", "sched_", "poll_", "path_", "sock_"}; slices.ContainsFunc(wasi, func(p string) bool { return strings.HasPrefix(s.name, p) }) {
			module = abi.WASI
		}
		for _, arg := range s.args {
			switch arg := arg.(type) {
			case string:
				where := a.once(arg)
				code, params = join(code, i32(int32(where)), i32(int32(len(arg)))), params+2
			case span:
				code, params = join(code, i32(int32(arg.at)), i32(int32(arg.length))), params+2
			case Outside:
				code, params = join(code, i32(-8), i32(16)), params+2
			case int:
				code, params = join(code, i32(int32(arg))), params+1
			case int64:
				code, params = join(code, []byte{0x42}, sleb64(arg)), params+1
			}
		}
		code = join(code, call(a.function(module, s.name, params, !slices.Contains(silent, s.name))))
		if slices.Contains(silent, s.name) {
			continue
		}
		if want, is64 := s.want.(int64); is64 {
			code = join(code, []byte{0x42}, sleb64(want), []byte{0x52, opIf, void}, fails(i32(-999)...), []byte{opEnd})
			continue
		}
		code = join(code, []byte{opLocalSet, got})
		want, isText := s.want.(string)
		length, isInt := s.want.(int)
		if isText {
			length = len(want)
		}
		if isText || isInt {
			code = join(code, []byte{opLocalGet, got}, i32(int32(length)), []byte{opNe, opIf, void}, fails(opLocalGet, got), []byte{opEnd})
		}
		if isText && want != "" {
			read := a.function(abi.Module, abi.FuncResultRead, 3, true)
			code = join(code, i32(result), i32(0), i32(int32(length)), call(read), drop, a.compare(result, want, fails))
		}
	}
	return code
}

// once is where a text is, which is put there if it is nowhere yet.
func (a *assembly) once(text string) int {
	if at := strings.Index(string(a.data), text); at >= 0 && text != "" {
		return at
	}
	return a.put(text)
}

// compare fails unless the text is in memory at a place. It is the guest's own
// code: ct_equal is the host's, and examined too.
func (a *assembly) compare(place int, text string, fails func(...byte) []byte) []byte {
	if text == "" {
		return nil
	}
	want := a.once(text)
	load := func(base int) []byte {
		return join([]byte{opLocalGet, index, 0x2d, 0}, leb(uint32(base))) // i32.load8_u
	}
	return join(i32(0), []byte{opLocalSet, index},
		loop(load(place), load(want), []byte{opNe, opIf, void}, fails(opLocalGet, index), []byte{opEnd},
			[]byte{opLocalGet, index}, i32(1), add, []byte{opLocalSet, index},
			[]byte{opLocalGet, index}, i32(int32(len(text))), []byte{0x49, opBrIf, 0}))
}

func sleb64(n int64) []byte {
	var out []byte
	for {
		b := byte(n & 0x7f)
		n >>= 7
		if n == 0 && b&0x40 == 0 || n == -1 && b&0x40 != 0 {
			return append(out, b)
		}
		out = append(out, b|0x80)
	}
}

// nowMS is when requests are made: RFC 6238 has a code for it.
const nowMS = 59_000

// asking is a login's request as a host gets it.
func asking() abi.Request {
	return abi.Request{
		ABI: abi.Version, Tenant: "acme", Method: "password", RequestID: "r-1", Attempt: 1,
		Credential: abi.Credential{"username": "alice", "password": "p\"w\\ü<&>\u2028"},
		Client:     abi.Client{IP: "192.0.2.7", UserAgent: "test/1", App: "shop"}, NowMS: nowMS,
	}
}

// long is a length between that of asking and that of a request with as long a
// password.
const long = 1000

// asked is asking with another password.
func asked(password string) abi.Request {
	r := asking()
	r.Credential["password"] = password
	return r
}

// good is a guest that is asked once for each verdict.
func good(name string, grants abi.Grants, g Guest, wants ...string) Good {
	lesson := Good{Name: name, Module: g.Module(), Grants: grants}
	for _, want := range wants {
		lesson.Logins = append(lesson.Logins, Turn{asking(), want})
	}
	return lesson
}

const accepted = ok

// GoodGuests are the exam of a host: what every function answers, and each of the
// contract's errors but ErrBusy, which depends on what else goes on; what is around
// a login; and what a verdict may be.
func GoodGuests(w World) []Good {
	return slices.Concat(alwaysThere(), wasi(), stdio(), lives(), verdicts(), lookups(w), digests(), signatures(), passwords(), codes(), keeping(), fetching(w), budgets(w))
}

func alwaysThere() []Good {
	none := abi.Grants{}
	a := &assembly{}
	read, write := a.function(abi.Module, abi.FuncInputRead, 3, true), a.function(abi.Module, abi.FuncOutputWrite, 2, true)
	head, tail := `{"decision":"accept","subject":"ok","claims":{"request":`, `}}`
	headAt, tailAt := a.put(head), a.put(tail)
	length := []byte{opLocalGet, 0}
	echo := func(reading []byte) Guest {
		return a.guest(join(reading, i32(int32(headAt)), i32(int32(len(head))), call(write), drop, i32(scratch), length, call(write), drop, i32(int32(tailAt)), i32(int32(len(tail))), call(write), drop, i32(0)))
	}
	inPieces := join( // of seven bytes, and the last of what is left
		loop([]byte{opLocalGet, index}, i32(scratch), add, []byte{opLocalGet, index}, i32(7), call(read), []byte{opLocalSet, got},
			[]byte{opLocalGet, index}, []byte{opLocalGet, got}, add, []byte{opLocalSet, index},
			[]byte{opLocalGet, got}, []byte{opBrIf, 0}),
		// so many as there are
		[]byte{opLocalGet, index}, length, []byte{opNe, opIf, void, opUnreachable, opEnd})
	const echoed = `{"decision":"accept","subject":"ok","claims":{"request":REQUEST}}`
	longest := `{"decision":"reject","code":"denied","detail":"` + "\"}"
	longest = longest[:len(longest)-2] + strings.Repeat("x", abi.MaxOutput-len(longest)) + "\"}"
	lines := func(n int) []do { return slices.Repeat([]do{gives(abi.FuncLog, nil, 1, "a line")}, n) }
	return []Good{
		good("input_read gives the request, whole", none, echo(join(i32(scratch), i32(0), length, call(read), drop)), echoed, echoed),
		good("input_read gives the request in pieces", none, echo(inPieces), echoed),
		good("input_read at the end gives nothing, and past it is ErrInvalid", none, a.guest(join(
			i32(scratch), length, i32(9), call(read), []byte{opIf, void, opUnreachable, opEnd},
			i32(scratch), length, i32(1), add, i32(9), call(read), i32(abi.ErrInvalid), []byte{opNe, opIf, void, opUnreachable, opEnd},
			i32(int32(a.once(ok))), i32(int32(len(ok))), call(write), drop, i32(0))), accepted),
		good("output_write puts pieces together, and tells how much there is", none, doing(`ok"}`,
			gives(abi.FuncOutputWrite, 10, `{"decision`), gives(abi.FuncOutputWrite, 10, ""), gives(abi.FuncOutputWrite, 31, `":"accept","subject":`), gives(abi.FuncOutputWrite, 32, `"`)), accepted),
		good("an answer may be as long as MaxOutput", none, doing(longest), longest),
		good("an answer longer than MaxOutput is none", none, doing(ok, gives(abi.FuncOutputWrite, nil, span{0, page}), gives(abi.FuncOutputWrite, nil, span{0, 1})), ""),
		good("result_read gives a result in pieces, and nothing at its end", abi.Grants{Config: true}, does(
			gives(abi.FuncConfigGet, 13, "list"), gives(abi.FuncResultRead, 5, scratch, 0, 5), gives(abi.FuncResultRead, 8, scratch+5, 5, 100),
			gives(abi.FuncResultRead, 0, scratch, 13, 9), gives(abi.FuncResultRead, abi.ErrInvalid, scratch, 14, 9), found(scratch, `[1,2,"three"]`)), accepted),
		good("result_read gives the last result, and nothing before the first", abi.Grants{Config: true}, does(
			gives(abi.FuncResultRead, 0, scratch, 0, 9), gives(abi.FuncConfigGet, 13, "list"), gives(abi.FuncConfigGet, "red", "colour"), gives(abi.FuncResultRead, 3, scratch, 0, 9), found(scratch, "red")), accepted),
		good("fail ends a login without a verdict, whatever was answered", none, doing(ok, gives(abi.FuncOutputWrite, nil, ok), gives(abi.FuncFail, nil, 7, "because")), ""),
		good("log takes every level", none, does(gives(abi.FuncLog, nil, 0, "debug"), gives(abi.FuncLog, nil, 1, "info"), gives(abi.FuncLog, nil, 2, "warn"), gives(abi.FuncLog, nil, 3, "error"), gives(abi.FuncLog, nil, 99, "what?"), gives(abi.FuncLog, nil, -1, "")), accepted),
		good("log takes MaxLogLines, and more do no harm", none, does(lines(abi.MaxLogLines+1)...), accepted),
		good("log takes MaxLogBytes, and more do no harm", none, does(gives(abi.FuncLog, nil, 1, span{0, abi.MaxLogBytes}), gives(abi.FuncLog, nil, 1, span{0, page})), accepted),
		good("log takes what is no UTF-8", none, does(gives(abi.FuncLog, nil, 1, "\xff\x00\x1b[2J")), accepted),
		good("random is another each time", none, does(gives(abi.FuncRandom, 0, span{scratch, 16}), gives(abi.FuncRandom, 0, span{scratch + 16, 16}), gives(abi.FuncCTEqual, 0, span{scratch, 16}, span{scratch + 16, 16})), accepted, accepted),
		good("random of nothing writes nothing", none, does(gives(abi.FuncRandom, 0, span{scratch, 0}), found(scratch, "\x00\x00\x00\x00")), accepted),
		good("now_ms is the request's time, and stands still", none, does(gives(abi.FuncNowMS, int64(nowMS)), gives(abi.FuncNowMS, int64(nowMS))), accepted),
		good("ct_equal tells equal from not", none, does(
			gives(abi.FuncCTEqual, 1, "same", "same"), gives(abi.FuncCTEqual, 0, "same", "sama"), gives(abi.FuncCTEqual, 0, "same", "some"),
			gives(abi.FuncCTEqual, 0, "same", "sam"), gives(abi.FuncCTEqual, 0, "", "x"), gives(abi.FuncCTEqual, 1, "", "")), accepted),
		good("a pointer outside memory traps", none, does(gives(abi.FuncLog, nil, 1, Outside{})), ""),
	}
}

func wasi() []Good {
	none := abi.Grants{}
	zero := strings.Repeat("\x00", 8)
	return []Good{
		good("WASI has no arguments and no environment", none, does(
			gives("args_sizes_get", 0, span{scratch, scratch + 4}), found(scratch, zero), gives("environ_sizes_get", 0, span{scratch + 8, scratch + 12}), found(scratch+8, zero),
			gives("args_get", 0, span{scratch, scratch}), gives("environ_get", 0, span{scratch, scratch})), accepted),
		good("WASI's clock is the request's", none, does(
			// nanoseconds, rounded down to some hundred: whatever the first looks cost
			gives("clock_time_get", 0, 0, int64(1), scratch), found(scratch+5, "\x00\x00\x00"), found(scratch+4, "\x0d"),
			gives("clock_time_get", 0, 1, int64(1), scratch+8)), accepted),
		good("WASI's random_get fills memory", none, does(gives("random_get", 0, span{scratch, 16}), gives("random_get", 0, span{scratch + 16, 16}), gives(abi.FuncCTEqual, 0, span{scratch, 16}, span{scratch + 16, 16})), accepted),
		good("WASI's standard output and error are the log", none, func() Guest {
			g := does(gives("fd_write", 0, 1, 4096, 1, scratch), found(scratch, "\x04\x00\x00\x00"), gives("fd_write", 0, 2, 4096, 1, scratch))
			return g.with(4096, "\x00\x00\x00\x00\x04\x00\x00\x00")
		}(), accepted),
		good("WASI has no files", none, does(
			gives("fd_prestat_get", 8, 3, scratch), gives("fd_close", 8, 3), gives("fd_seek", 8, 3, int64(0), 0, scratch), gives("fd_write", 8, 3, scratch, 0, scratch),
			gives("path_unlink_file", 52, 3, "x"), gives("fd_sync", 52, 1), gives("sock_shutdown", 52, 0, 0)), accepted),
		good("WASI's sched_yield returns", none, does(gives("sched_yield", 0)), accepted),
		good("WASI's poll_oneoff does not wait", none, does(gives("poll_oneoff", 0, scratch, scratch+64, 1, scratch+128), found(scratch+128, "\x01\x00\x00\x00")), accepted),
		good("WASI's proc_exit ends a core module without a verdict", none, doing(ok, gives(abi.FuncOutputWrite, nil, ok), gives("proc_exit", nil, 0)), ""),
	}
}

// with puts text into a guest's memory at a place after its data.
func (g Guest) with(at int, text string) Guest {
	g.Data = append(append(g.Data, make([]byte, at-len(g.Data))...), text...)
	return g
}

func stdio() []Good {
	none := abi.Grants{}
	const vector = 4096
	// speaks writes a text to standard output, by one vector for each part.
	speaks := func(answer string, parts int, after ...do) Guest {
		a := &assembly{}
		at := a.put(answer)
		code := a.code(append([]do{gives("fd_write", 0, 1, vector, parts, scratch)}, after...))
		g := a.guest(code)
		g.Stdio, g.Locals = true, 3 // it has no parameter
		var list []byte
		for n := range parts {
			from, to := len(answer)*n/parts, len(answer)*(n+1)/parts
			list = append(list, byte(at+from), 0, 0, 0, byte(to-from), 0, 0, 0)
		}
		return g.with(vector, string(list))
	}
	a := &assembly{}
	head, tail := `{"decision":"accept","subject":"ok","claims":{"request":`, `}}`
	headAt, tailAt := a.put(head), a.put(tail)
	read, write := a.function(abi.WASI, "fd_read", 4, true), a.function(abi.WASI, "fd_write", 4, true)
	store := []byte{0x36, 2, 0}
	say := func(at, n []byte) []byte {
		return join(i32(vector), at, store, i32(vector+4), n, store, i32(1), i32(vector), i32(1), i32(vector+8), call(write), drop)
	}
	echo := a.guest(join(
		say(i32(int32(headAt)), i32(int32(len(head)))),
		loop( // seven bytes at a time, until there are none
			i32(vector), i32(scratch), store, i32(vector+4), i32(7), store, i32(0), i32(vector), i32(1), i32(vector+8), call(read), drop,
			i32(vector+8), []byte{opI32Load, 2, 0}, []byte{opLocalSet, 0},
			say(i32(scratch), []byte{opLocalGet, 0}), []byte{opLocalGet, 0, opBrIf, 0}),
		say(i32(int32(tailAt)), i32(int32(len(tail))))))
	echo.Stdio, echo.Locals = true, 3
	return []Good{
		good("a WASI command answers on standard output", none, speaks(ok, 1), accepted, accepted),
		good("a WASI command's answer may be in parts", none, speaks(ok, 3), accepted),
		good("a WASI command reads the request on standard input", none, echo, `{"decision":"accept","subject":"ok","claims":{"request":REQUEST}}`),
		good("a WASI command that exits with 0 has answered", none, speaks(ok, 1, gives("proc_exit", nil, 0)), accepted),
		good("a WASI command that exits with another status has not", none, speaks(ok, 1, gives("proc_exit", nil, 3)), ""),
		good("a WASI command that traps has not answered", none, func() Guest {
			g := speaks(ok, 1)
			g.Code = join(g.Code, []byte{opUnreachable})
			return g
		}(), ""),
	}
}

func lives() []Good {
	none := abi.Grants{}
	// when accepts when a condition holds, and traps otherwise.
	when := func(condition []byte, before ...Func) Guest {
		g := does()
		g.Code = join(condition, []byte{0x45, opIf, void, opUnreachable, opEnd}, g.Code)
		g.Before = before
		return g
	}
	sets := func(global uint32) []byte { return join(i32(1), set(global)) }
	// initDoes is a guest whose verify is its init too: it does these things the
	// first time, and answers the second.
	initDoes := func(grants abi.Grants, name string, steps ...do) Good {
		a := &assembly{}
		first := join(i32(1), set(0), a.code(steps), i32(0), []byte{0x0f})
		at := a.put(ok)
		g := a.guest(join(get(0), []byte{0x45, opIf, void}, first, []byte{opEnd},
			i32(int32(at)), i32(int32(len(ok))), call(a.function(abi.Module, abi.FuncOutputWrite, 2, true)), drop, i32(0)))
		g.Init = true
		return good(name, grants, g, accepted, accepted)
	}
	memory := does(found(scratch, "\x00\x00\x00\x00\x00\x00\x00\x00"))
	memory.Code = join(memory.Code[:len(memory.Code)-2], i32(scratch), i32(77), []byte{opI32Store, 2, 0}, i32(0))
	return []Good{
		good("_initialize is called before verify", none, when(get(0), Func{abi.ExportInitialize, ":", sets(0)}), accepted, accepted),
		good("init is called before verify, and after _initialize", none, when(get(1), Func{abi.ExportInitialize, ":", sets(0)}, Func{abi.ExportInit, "i:i", join(get(0), set(1), i32(0))}), accepted, accepted),
		good("an init that does not return 0 leaves no verdict", none, when(i32(1), Func{abi.ExportInit, "i:i", i32(5)}), ""),
		good("warm is nothing that a verdict hangs on", none, when(i32(1), Func{abi.ExportWarm, ":i", join(sets(0), i32(0))}), accepted, accepted),
		initDoes(abi.Grants{Config: true}, "init may look up configuration", gives(abi.FuncConfigGet, "red", "colour")),
		initDoes(abi.Grants{Hash: true}, "init may do nothing else that is granted", gives(abi.FuncHash, abi.ErrNotDuringInit, abi.AlgSHA256, "x")),
		good("globals are as they were at the next login", none, when(join(get(0), []byte{0x45}, i32(1), set(0))), accepted, accepted),
		good("memory is as it was at the next login", none, memory, accepted, accepted),
		good("memory may grow to its limit, and then grow says no", none, when(join( // 8 pages there are, of 512
			i32(504), []byte{opMemoryGrow, 0}, i32(8), []byte{0x46}, i32(1), []byte{opMemoryGrow, 0}, i32(-1), []byte{0x46, 0x71})), accepted, accepted),
		good("a verify that does not return 0 leaves no verdict", none, func() Guest {
			g := does()
			g.Code = join(g.Code[:len(g.Code)-2], i32(1))
			return g
		}(), ""),
		good("a verify that answers nothing leaves no verdict", none, Guest{Code: i32(0)}, ""),
		{Name: "a trap leaves no verdict, and no trace at the next login", Module: when(join([]byte{opLocalGet, 0}, i32(long), []byte{0x48})).Module(), Logins: []Turn{
			{asking(), accepted}, {asked(strings.Repeat("x", long)), ""}, {asking(), accepted},
		}},
	}
}

func verdicts() []Good {
	none := abi.Grants{}
	says := func(name, answer, want string) Good {
		if want == "" {
			want = answer
		}
		return good(name, none, doing(answer), want)
	}
	claims := `{"c":"` + strings.Repeat("x", abi.MaxClaims-8) + `"}`
	list := []Good{
		says("accept may have claims and methods", `{"decision":"accept","subject":"alice","claims":{"role":"admin","n":9007199254740993,"deep":{"a":[1,{"b":null}]}},"amr":["pwd","otp"]}`, ""),
		says("accept may have a subject of MaxSubject characters", `{"decision":"accept","subject":"`+strings.Repeat("é", abi.MaxSubject)+`"}`, ""),
		says("accept may have claims of MaxClaims bytes", `{"decision":"accept","subject":"ok","claims":`+claims+`}`, ""),
		says("an answer may have blanks around it, and members of a newer contract", " \n"+`{"decision":"accept", "subject":"ok", "newer":{"a":1}}`+"\t ", accepted),
		says("an answer's texts may be escaped", `{"decision":"accept","subject":"\u0061\ud83d\ude00"}`, `{"decision":"accept","subject":"a😀"}`),
		says("a reject without a code is of bad credentials", `{"decision":"reject"}`, `{"decision":"reject","code":"bad_credentials"}`),
		says("a challenge has a ttl and a number of attempts when it says none", `{"decision":"challenge","type":"otp"}`, `{"decision":"challenge","type":"otp","ttl":300,"max_attempts":5}`),
		says("a challenge may be of its own kind, and as long as may be", `{"decision":"challenge","type":"custom","public":{"q":"?"},"private":[1],"ttl":900,"max_attempts":10}`, ""),
		says("a decision that is none is no verdict", `{"decision":"maybe","subject":"ok"}`, "none"),
		says("a reserved claim is no verdict", `{"decision":"accept","subject":"ok","claims":{"sub":"x"}}`, "none"),
		says("a subject that is missing is no verdict", `{"decision":"accept"}`, "none"),
		says("a name twice is no verdict", `{"decision":"accept","decision":"reject","subject":"ok"}`, "none"),
	}
	for _, code := range []string{abi.BadCredentials, abi.Locked, abi.Expired, abi.Denied} {
		list = append(list, says("reject "+code, `{"decision":"reject","code":"`+code+`","detail":"why"}`, ""))
	}
	for i := range list {
		if list[i].Logins[0].Want == "none" {
			list[i].Logins[0].Want = ""
		}
	}
	// What a challenge says for itself comes back with the answer to it.
	a := &assembly{}
	first, tail := `{"decision":"challenge","type":"otp","private":{"user":"a\"b","n":[1,2]},"ttl":60}`, `}}`
	head := `{"decision":"accept","subject":"ok","claims":{"request":`
	firstAt, headAt, tailAt := a.put(first), a.put(head), a.put(tail)
	read, write := a.function(abi.Module, abi.FuncInputRead, 3, true), a.function(abi.Module, abi.FuncOutputWrite, 2, true)
	length := []byte{opLocalGet, 0}
	second := asking()
	second.Credential = abi.Credential{"code": "123456"}
	g := a.guest(join(
		length, i32(long), []byte{0x4a, opIf, typeI32}, // the first request is the longer one
		i32(int32(firstAt)), i32(int32(len(first))), call(write), drop, i32(0), []byte{0x05},
		i32(scratch), i32(0), length, call(read), drop, i32(int32(headAt)), i32(int32(len(head))), call(write), drop, i32(scratch), length, call(write), drop, i32(int32(tailAt)), i32(int32(len(tail))), call(write), drop, i32(0), []byte{opEnd}))
	return append(list, Good{Name: "what a challenge keeps comes back with the answer to it", Module: g.Module(), Logins: []Turn{
		{asked(strings.Repeat("x", long)), `{"decision":"challenge","type":"otp","private":{"user":"a\"b","n":[1,2]},"ttl":60,"max_attempts":5}`},
		{second, `{"decision":"accept","subject":"ok","claims":{"request":REQUEST}}`},
	}})
}

func lookups(w World) []Good {
	config, secret := abi.Grants{Config: true}, abi.Grants{Secrets: []string{"PEPPER", "MISSING", w.Broken}}
	return []Good{
		good("config_get gives a text as it is", config, does(gives(abi.FuncConfigGet, "red", "colour")), accepted),
		good("config_get gives an empty text, which is one", config, does(gives(abi.FuncConfigGet, 0, "empty")), accepted),
		good("config_get of no such key is ErrNotFound", config, does(gives(abi.FuncConfigGet, abi.ErrNotFound, "none"), gives(abi.FuncConfigGet, abi.ErrNotFound, "")), accepted),
		good("config_get with a pointer outside memory traps", config, does(gives(abi.FuncConfigGet, nil, Outside{})), ""),
		good("secret_get gives a secret", secret, does(gives(abi.FuncSecretGet, "hot-pepper", "PEPPER")), accepted),
		good("secret_get of one that is not set is ErrNotFound", secret, does(gives(abi.FuncSecretGet, abi.ErrNotFound, "MISSING")), accepted),
		good("secret_get of one that is not granted is ErrNotGranted", secret, does(gives(abi.FuncSecretGet, abi.ErrNotGranted, "OTHER"), gives(abi.FuncSecretGet, abi.ErrNotGranted, "")), accepted),
		good("secret_get of one that cannot be read is ErrInternal", secret, does(gives(abi.FuncSecretGet, abi.ErrInternal, w.Broken)), accepted),
		good("secret_hmac is the hmac under a secret", secret, does(gives(abi.FuncSecretHMAC, string(hmac256("hot-pepper", "data")), "PEPPER", abi.AlgSHA256, "data")), accepted),
		good("secret_hmac needs the secret, its grant and an algorithm", secret, does(
			gives(abi.FuncSecretHMAC, abi.ErrNotFound, "MISSING", abi.AlgSHA256, ""), gives(abi.FuncSecretHMAC, abi.ErrNotGranted, "OTHER", abi.AlgSHA256, ""), gives(abi.FuncSecretHMAC, abi.ErrUnsupported, "PEPPER", 0, "")), accepted),
	}
}

func digests() []Good {
	hash, mac := abi.Grants{Hash: true}, abi.Grants{HMAC: true}
	sum256, sum512, sum384 := sha256.Sum256([]byte("abc")), sha512.Sum512([]byte("abc")), sha512.Sum384([]byte("abc"))
	return []Good{
		good("hash is SHA-256, SHA-384 and SHA-512", hash, does(
			gives(abi.FuncHash, string(sum256[:]), abi.AlgSHA256, "abc"), gives(abi.FuncHash, string(sum384[:]), abi.AlgSHA384, "abc"), gives(abi.FuncHash, string(sum512[:]), abi.AlgSHA512, "abc")), accepted),
		good("hash by another algorithm is ErrUnsupported", hash, does(gives(abi.FuncHash, abi.ErrUnsupported, 0, "abc"), gives(abi.FuncHash, abi.ErrUnsupported, 4, "abc")), accepted),
		good("hash takes MaxArgument bytes, and more are ErrTooLarge", hash, does(gives(abi.FuncHash, 32, abi.AlgSHA256, span{0, abi.MaxArgument}), gives(abi.FuncHash, abi.ErrTooLarge, abi.AlgSHA256, span{0, abi.MaxArgument + 1})), accepted),
		good("hash with a pointer outside memory traps", hash, does(gives(abi.FuncHash, nil, abi.AlgSHA256, Outside{})), ""),
		good("hmac is RFC 2104's", mac, does(gives(abi.FuncHMAC, string(hmac256("Jefe", "what do ya want for nothing?")), abi.AlgSHA256, "Jefe", "what do ya want for nothing?"), gives(abi.FuncHMAC, 64, abi.AlgSHA512, "", "")), accepted),
		good("hmac by another algorithm is ErrUnsupported", mac, does(gives(abi.FuncHMAC, abi.ErrUnsupported, 9, "k", "d")), accepted),
	}
}

func hmac256(key, data string) []byte {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(data))
	return h.Sum(nil)
}

func signatures() []Good {
	grants, message := abi.Grants{SigVerify: true}, "a message"
	sum := sha256.Sum256([]byte(message))
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	der, err := ecdsa.SignASN1(rand.Reader, ecKey, sum[:])
	must(err)
	r, s, err := ecdsa.Sign(rand.Reader, ecKey, sum[:])
	must(err)
	raw := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	pkcs, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, sum[:])
	must(err)
	pss, err := rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	must(err)
	var list []Good
	for _, c := range []struct {
		name      string
		alg       int
		public    any
		signature []byte
	}{
		{"Ed25519", abi.SigEd25519, edPublic, ed25519.Sign(edKey, []byte(message))}, {"ES256 as JWS has it", abi.SigES256, &ecKey.PublicKey, raw},
		{"ES256 as WebAuthn has it", abi.SigES256DER, &ecKey.PublicKey, der}, {"RS256", abi.SigRS256, &rsaKey.PublicKey, pkcs}, {"PS256", abi.SigPS256, &rsaKey.PublicKey, pss},
	} {
		key, err := x509.MarshalPKIXPublicKey(c.public)
		must(err)
		armoured := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: key}))
		list = append(list, good("sig_verify checks "+c.name, grants, does(
			gives(abi.FuncSigVerify, 1, c.alg, string(key), message, string(c.signature)), gives(abi.FuncSigVerify, 1, c.alg, armoured, message, string(c.signature)),
			gives(abi.FuncSigVerify, 0, c.alg, string(key), message+".", string(c.signature)), gives(abi.FuncSigVerify, 0, c.alg, string(key), message, "")), accepted))
	}
	return append(list,
		good("sig_verify of a key that is none is ErrInvalid", grants, does(gives(abi.FuncSigVerify, abi.ErrInvalid, abi.SigEd25519, "no key", message, "")), accepted),
		good("sig_verify of a long key is ErrTooLarge", grants, does(gives(abi.FuncSigVerify, abi.ErrTooLarge, abi.SigRS256, span{0, abi.MaxPublicKey + 1}, message, "")), accepted),
		good("sig_verify by another algorithm is ErrUnsupported", grants, does(gives(abi.FuncSigVerify, abi.ErrUnsupported, 0, "", message, "")), accepted))
}

func must(err error) {
	if err != nil {
		panic("guesttest: make a key: " + err.Error())
	}
}

// Hashes of "pässword one", made by other programs: glibc's crypt, Django and
// passlib.
var goodHashes = []struct{ scheme, hash string }{
	{"bcrypt", "$2b$04$itq9c/NRZRAMZQZaJDp4XeAq9NJO9xON4lE6iBRaeDoSyLzrWdqfe"},
	{"argon2id", "$argon2id$v=19$m=1024,t=1,p=2$bnlRc3pWbmNnNmtORWFlelFDbE1xcg$cyJZHmxT9mQsq89UaGg8qA"},
	{"sha512-crypt", "$6$rounds=1000$abcdefgh$SllT4BZiQYuwDfSjTiDzSLGpcBxM3Gmw1B/TxxVNzNRAH6GDt6E.kn8qEv5yx0v6Z8OGy1ATt6f0QgzpF4.Ht."},
	{"pbkdf2", "pbkdf2_sha256$2000$kGsSswsKVHe6rgc9rzzPzx$xbAHFmv6aO3AUbCnFyLw8e6ynE4v31uuAvsromdhwYY="},
	{"scrypt", "scrypt$64$aZ3.salt$8$5$e6gVxsVH8VEPN9cd+czcvYKfCkmr8i2F/QdJwVspdMP079LdHdBd+e8vrK0HNnX6E87Ih8x3VSViz6PoWA+yVA=="},
	{"phpass", "$P$BNGCqrfD6E9cJOR7145ipFFqhGeHdc/"},
}

func passwords() []Good {
	all := abi.Grants{Password: []string{"*"}}
	const right = "pässword one"
	var list []Good
	for _, h := range goodHashes {
		list = append(list, good("password_verify checks "+h.scheme+" under its grant", abi.Grants{Password: []string{h.scheme}}, does(
			gives(abi.FuncPasswordVerify, 1, h.hash, right), gives(abi.FuncPasswordVerify, 0, h.hash, right+"x"), gives(abi.FuncPasswordVerify, 0, "?"+h.hash, right)), accepted))
	}
	cheap := goodHashes[2].hash
	return append(list,
		good("password_verify of no hash is no", all, does(gives(abi.FuncPasswordVerify, 0, "", ""), gives(abi.FuncPasswordVerify, 0, "", "x")), accepted),
		good("password_verify of another scheme than is granted is ErrNotGranted", abi.Grants{Password: []string{"bcrypt"}}, does(gives(abi.FuncPasswordVerify, abi.ErrNotGranted, cheap, right)), accepted),
		good("password_verify of a form that is none is ErrUnsupported", all, does(gives(abi.FuncPasswordVerify, abi.ErrUnsupported, "plain text", "plain text")), accepted),
		good("password_verify of a hash beyond the caps is ErrTooLarge", all, does(gives(abi.FuncPasswordVerify, abi.ErrTooLarge, "$2b$14$itq9c/NRZRAMZQZaJDp4XeAq9NJO9xON4lE6iBRaeDoSyLzrWdqfe", right)), accepted),
		good("password_verify takes MaxPassword bytes, and more are ErrTooLarge", all, does(gives(abi.FuncPasswordVerify, 0, cheap, span{0, abi.MaxPassword}), gives(abi.FuncPasswordVerify, abi.ErrTooLarge, cheap, span{0, abi.MaxPassword + 1})), accepted),
		good("password_hash gives a hash that password_verify takes", all, func() Guest {
			a := &assembly{}
			code := a.code([]do{gives(abi.FuncPasswordHash, nil, right), gives(abi.FuncResultRead, nil, scratch, 0, 1000)}) // which leaves the length
			length := join(i32(scratch), []byte{opLocalGet, got})
			at := a.once(right)
			check := join(length, i32(int32(at)), i32(int32(len(right))), call(a.function(abi.Module, abi.FuncPasswordVerify, 4, true)), []byte{0x45, opIf, void, opUnreachable, opEnd})
			return a.guest(join(code, check, a.code([]do{found(scratch, "$argon2id$")}), i32(int32(a.once(ok))), i32(int32(len(ok))), call(a.function(abi.Module, abi.FuncOutputWrite, 2, true)), drop, i32(0)))
		}(), accepted),
		good("password_hash of a long password is ErrTooLarge", all, does(gives(abi.FuncPasswordHash, abi.ErrTooLarge, span{0, abi.MaxPassword + 1})), accepted))
}

// codes are RFC 6238's: its appendix B has the secret and, at 59 s, the code.
func codes() []Good {
	grants := abi.Grants{TOTP: true}
	const secret, code = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", "287082"
	return []Good{
		good("totp_verify takes a code", grants, does(gives(abi.FuncTOTPVerify, 0, secret, "000000"), gives(abi.FuncTOTPVerify, 1, secret, code)), accepted),
		good("totp_verify takes a code once", grants, does(gives(abi.FuncTOTPVerify, 1, secret, code), gives(abi.FuncTOTPVerify, 0, "gezd gnbv gy3t qojq gezd gnbv gy3t qojq", code)), accepted, ""),
		good("totp_verify of a secret that is none is ErrInvalid", grants, does(gives(abi.FuncTOTPVerify, abi.ErrInvalid, "not base32!", code)), accepted),
		good("totp_verify of a long secret is ErrTooLarge", grants, does(gives(abi.FuncTOTPVerify, abi.ErrTooLarge, strings.Repeat("A", abi.MaxTOTPSecret+1), code)), accepted),
	}
}

func keeping() []Good {
	grants := abi.Grants{KV: &abi.KVGrant{Namespaces: []string{"ns", "other"}}}
	key, value := strings.Repeat("k", abi.MaxKVKey), strings.Repeat("v", abi.MaxKVValue)
	return []Good{
		good("kv_get of nothing is ErrNotFound", grants, does(gives(abi.FuncKVGet, abi.ErrNotFound, "ns", "k")), accepted),
		good("kv_put keeps a value, in its namespace", grants, does(
			gives(abi.FuncKVPut, 0, "ns", "k", "first", abi.MaxKVTTL), gives(abi.FuncKVGet, "first", "ns", "k"), gives(abi.FuncKVGet, abi.ErrNotFound, "other", "k")), accepted),
		good("kv_put of no value deletes", grants, does(gives(abi.FuncKVPut, 0, "ns", "k", "v", 0), gives(abi.FuncKVPut, 0, "ns", "k", "", 0), gives(abi.FuncKVGet, abi.ErrNotFound, "ns", "k")), accepted),
		good("kv_put takes the longest key and value, and longer ones are ErrTooLarge", grants, does(
			gives(abi.FuncKVPut, 0, "ns", key, value, 60), gives(abi.FuncKVGet, value, "ns", key),
			gives(abi.FuncKVPut, abi.ErrTooLarge, "ns", key+"k", "v", 60), gives(abi.FuncKVPut, abi.ErrTooLarge, "ns", "k", value+"v", 60)), accepted),
		good("kv_put for a time that is none is ErrInvalid", grants, does(gives(abi.FuncKVPut, abi.ErrInvalid, "ns", "k", "v", -1), gives(abi.FuncKVPut, abi.ErrInvalid, "ns", "k", "v", abi.MaxKVTTL+1)), accepted),
		good("kv_incr counts from login to login", grants, does(gives(abi.FuncKVIncr, 1, "ns", "n", 1, 60)), accepted, ""),
		good("kv_incr counts in decimal text", grants, does(gives(abi.FuncKVIncr, 41, "ns", "n", 41, 60), gives(abi.FuncKVIncr, 40, "ns", "n", -1, 60), gives(abi.FuncKVGet, "40", "ns", "n")), accepted),
		good("kv_incr of a text, or below nothing, is ErrInvalid", grants, does(gives(abi.FuncKVPut, 0, "ns", "n", "text", 60), gives(abi.FuncKVIncr, abi.ErrInvalid, "ns", "n", 1, 60), gives(abi.FuncKVIncr, abi.ErrInvalid, "ns", "m", -1, 60)), accepted),
		good("kv_cas puts a value where the old one is", grants, does(
			gives(abi.FuncKVCAS, 1, "ns", "k", "", "a", 60), gives(abi.FuncKVCAS, 0, "ns", "k", "", "b", 60), gives(abi.FuncKVCAS, 0, "ns", "k", "x", "b", 60), gives(abi.FuncKVCAS, 1, "ns", "k", "a", "b", 60), gives(abi.FuncKVGet, "b", "ns", "k")), accepted),
		good("kv of a namespace that is not granted is ErrNotGranted", grants, does(
			gives(abi.FuncKVGet, abi.ErrNotGranted, "third", "k"), gives(abi.FuncKVPut, abi.ErrNotGranted, "", "k", "v", 60), gives(abi.FuncKVIncr, abi.ErrNotGranted, "third", "k", 1, 60), gives(abi.FuncKVCAS, abi.ErrNotGranted, "third", "k", "", "v", 60)), accepted),
	}
}

// Upstream is what a host's http_fetch is examined with. It ends with ctx.
func Upstream(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	switch r.URL.Path {
	case "/bytes":
		w.Write([]byte{0xff, 0xfe})
	case "/away":
		w.Header().Set("Location", "/text")
		w.WriteHeader(http.StatusFound)
	case "/large":
		w.Write(make([]byte, abi.MaxHTTPBody+1))
	case "/silent":
		<-r.Context().Done()
	case "/seen":
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Header.Get("X-Key"), body)
	default:
		w.WriteHeader(http.StatusTeapot)
	}
}

func fetching(w World) []Good {
	grants := abi.Grants{HTTP: &abi.HTTPGrant{Hosts: []string{w.Open, w.Closed}, MaxCalls: abi.MaxHTTPCalls}}
	url := "http://" + w.Open
	// fetched is a fetch whose answer, as JSON, is looked at by the exam: it becomes a
	// claim.
	fetched := func(name, request, want string) Good {
		a := &assembly{}
		code := a.code([]do{gives(abi.FuncHTTPFetch, nil, request), gives(abi.FuncResultRead, nil, scratch, 0, page)})
		head, tail := `{"decision":"accept","subject":"ok","claims":{"answer":`, `}}`
		write := a.function(abi.Module, abi.FuncOutputWrite, 2, true)
		say := func(text string) []byte {
			return join(i32(int32(a.put(text))), i32(int32(len(text))), call(write), drop)
		}
		g := a.guest(join(code, say(head), i32(scratch), []byte{opLocalGet, got}, call(write), drop, say(tail), i32(0)))
		return good(name, grants, g, `{"decision":"accept","subject":"ok","claims":{"answer":`+want+`}}`)
	}
	fails := func(name string, code int, requests ...string) Good {
		var steps []do
		for _, r := range requests {
			steps = append(steps, gives(abi.FuncHTTPFetch, code, r))
		}
		return good(name, grants, does(steps...), accepted)
	}
	return []Good{
		fetched("http_fetch sends a method, headers and a body", `{"method":"POST","url":"`+url+`/seen","headers":{"X-Key":"key"},"body":"b\u00f6dy"}`, `{"status":200,"body":"POST key bödy"}`),
		fetched("http_fetch gives what is no text in base64", `{"url":"`+url+`/bytes"}`, `{"status":200,"body_base64":"//4="}`),
		fetched("http_fetch follows no redirect", `{"url":"`+url+`/away"}`, `{"status":302,"location":"/text"}`),
		fetched("http_fetch gives any status", `{"url":"`+url+`/tea"}`, `{"status":418}`),
		fails("http_fetch of what is no request is ErrInvalid", abi.ErrInvalid, url, `{}`, `{"url":"`+url+`/","body":"a","body_base64":"YQ=="}`, `{"url":"`+url+`/","method":"BREW"}`),
		fails("http_fetch of a host that is not granted is ErrNotGranted", abi.ErrNotGranted, `{"url":"http://127.0.0.1:9/"}`, `{"url":"https://elsewhere.example/"}`),
		fails("http_fetch of a host where nobody answers is ErrUpstream", abi.ErrUpstream, `{"url":"http://`+w.Closed+`/"}`),
		fails("http_fetch of an answer that is too long is ErrTooLarge", abi.ErrTooLarge, `{"url":"`+url+`/large"}`),
		fails("http_fetch of an answer that does not come is ErrTimeout", abi.ErrTimeout, `{"url":"`+url+`/silent"}`),
	}
}

// budgets are what one login may ask for, and once more.
func budgets(w World) []Good {
	times := func(name string, grants abi.Grants, n int, s do) Good {
		over := s
		over.want = abi.ErrQuota
		return good(name, grants, does(append(slices.Repeat([]do{s}, n), over)...), accepted)
	}
	kv := abi.Grants{KV: &abi.KVGrant{Namespaces: []string{"ns"}}}
	return []Good{
		times("a login may ask for MaxHostCalls, and once more is ErrQuota", abi.Grants{Hash: true}, abi.MaxHostCalls, gives(abi.FuncHash, 32, abi.AlgSHA256, "x")),
		times("a login may check MaxPasswordCalls, and once more is ErrQuota", abi.Grants{Password: []string{"*"}}, abi.MaxPasswordCalls, gives(abi.FuncPasswordVerify, 0, goodHashes[2].hash, "x")),
		times("a login may ask kv MaxKVCalls times, and once more is ErrQuota", kv, abi.MaxKVCalls, gives(abi.FuncKVGet, abi.ErrNotFound, "ns", "k")),
		times("a login may fetch DefaultHTTPCalls times, and once more is ErrQuota", abi.Grants{HTTP: &abi.HTTPGrant{Hosts: []string{w.Open}}}, abi.DefaultHTTPCalls, gives(abi.FuncHTTPFetch, nil, `{"url":"http://`+w.Open+`/tea"}`)),
		times("a login may fetch as often as its manifest says", abi.Grants{HTTP: &abi.HTTPGrant{Hosts: []string{w.Open}, MaxCalls: 3}}, 3, gives(abi.FuncHTTPFetch, nil, `{"url":"http://`+w.Open+`/tea"}`)),
	}
}
