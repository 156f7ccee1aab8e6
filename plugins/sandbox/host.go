package sandbox

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/doorward/doorward/sdk/abi"
)

// trap ends a guest from within a host function. Its text is for the tenant.
type trap struct{ text string }

func (t *trap) Error() string { return t.text }

func trapf(format string, args ...any) { panic(&trap{fmt.Sprintf(format, args...)}) }

// bindHost gives a module what it imports, and nothing else: the host modules
// hold just the names in its import section.
func bindHost(ctx context.Context, r wazero.Runtime, m wazero.CompiledModule) error {
	builders := map[string]wazero.HostModuleBuilder{}
	done := map[string]bool{}
	for _, f := range m.ImportedFunctions() {
		module, name, _ := f.Import()
		if done[module+"."+name] {
			continue
		}
		done[module+"."+name] = true
		var body api.GoModuleFunc
		switch module {
		case abi.Module:
			body = hostFunc(name)
		case abi.WASI:
			body = wasiFunc(name)
		}
		if body == nil {
			return fmt.Errorf("%w: import %q.%q is not offered", ErrModule, module, name)
		}
		if builders[module] == nil {
			builders[module] = r.NewHostModuleBuilder(module)
		}
		builders[module].NewFunctionBuilder().WithGoModuleFunction(body, f.ParamTypes(), f.ResultTypes()).Export(name)
	}
	for _, b := range builders {
		if _, err := b.Instantiate(ctx); err != nil {
			return fmt.Errorf("bind host functions: %w", err)
		}
	}
	return nil
}

// view is guest memory at a (pointer, length) pair. It is checked against the
// memory there is before anything is made of it; outside is a trap.
func view(m api.Module, name string, pointer, length uint64) []byte {
	memory := m.Memory()
	if memory == nil {
		trapf("%s: the guest has no memory", name)
	}
	b, ok := memory.Read(uint32(pointer), uint32(length))
	if !ok {
		trapf("%s: pointer %d with length %d is outside the guest's memory of %d bytes", name, uint32(pointer), uint32(length), memory.Size())
	}
	return b
}

// spend takes fuel for work of the host's that takes as long as a guest says,
// before it is done.
func (r *run) spend(name string, fuel int64) {
	left := int64(r.meter.Get()) - fuel
	r.meter.Set(uint64(left))
	if left < 0 {
		trapf("%s: no fuel is left for that", name)
	}
}

// Fuel for a byte of what the host does by length.
const (
	randomFuel  = 4
	copyingFuel = 1  // comparing, and reading lines for the log
	copyBits    = 3  // 2^3 bytes copied for 1, as memory.copy has it
	pieceFuel   = 50 // for each piece of a list
)

// reply puts a host function's i32 result on the stack.
func reply(stack []uint64, n int32) { stack[0] = api.EncodeI32(n) }

// hostFunc is a function of module doorward_v1, nil when there is none by that
// name. stack holds the parameters and takes the result.
func hostFunc(name string) api.GoModuleFunc {
	if takes, ok := granted[name]; ok {
		return func(ctx context.Context, m api.Module, stack []uint64) {
			reply(stack, runOf(ctx).grantedCall(m, name, takes, stack))
		}
	}
	switch name {
	case abi.FuncInputRead:
		return func(ctx context.Context, m api.Module, stack []uint64) {
			runOf(ctx).needsCall(name)
			reply(stack, copyOut(ctx, m, name, runOf(ctx).input, stack))
		}
	case abi.FuncResultRead:
		return func(ctx context.Context, m api.Module, stack []uint64) {
			reply(stack, copyOut(ctx, m, name, runOf(ctx).result, stack))
		}
	case abi.FuncOutputWrite:
		return func(ctx context.Context, m api.Module, stack []uint64) {
			r := runOf(ctx)
			r.write(name, view(m, name, stack[0], stack[1]))
			reply(stack, int32(len(r.output)))
		}
	case abi.FuncFail:
		return func(_ context.Context, m api.Module, stack []uint64) {
			why := view(m, name, stack[1], min(stack[2]&0xffffffff, 512))
			trapf("the guest failed with code %d: %s", int32(stack[0]), escape(string(why)))
		}
	case abi.FuncLog:
		return func(ctx context.Context, m api.Module, stack []uint64) {
			line := view(m, name, stack[1], stack[2])
			runOf(ctx).spend(name, copyingFuel*int64(len(line)))
			text := strings.TrimRight(string(line), "\n")
			runOf(ctx).log.add(int(int32(stack[0])), []byte(text))
		}
	case abi.FuncRandom:
		return func(ctx context.Context, m api.Module, stack []uint64) {
			into := view(m, name, stack[0], stack[1])
			runOf(ctx).needsCall(name)
			runOf(ctx).spend(name, randomFuel*int64(len(into)))
			rand.Read(into) // never fails
			reply(stack, 0)
		}
	case abi.FuncNowMS:
		return func(ctx context.Context, _ api.Module, stack []uint64) {
			runOf(ctx).needsCall(name)
			stack[0] = api.EncodeI64(runOf(ctx).now.UnixMilli())
		}
	case abi.FuncCTEqual:
		return func(ctx context.Context, m api.Module, stack []uint64) {
			a, b := view(m, name, stack[0], stack[1]), view(m, name, stack[2], stack[3])
			runOf(ctx).spend(name, copyingFuel*int64(len(a)))
			reply(stack, int32(subtle.ConstantTimeCompare(a, b)))
		}
	}
	return nil
}

// copyOut copies from[off:] to the guest, as much as it asks for, and tells how
// much that was.
func copyOut(ctx context.Context, m api.Module, name string, from []byte, stack []uint64) int32 {
	into, off := view(m, name, stack[0], stack[2]), uint64(uint32(stack[1]))
	if off > uint64(len(from)) {
		return abi.ErrInvalid
	}
	n := copy(into, from[off:])
	runOf(ctx).spend(name, int64(n)>>copyBits)
	return int32(n)
}

// write takes a piece of the guest's answer. A guest that answers without end
// has nothing to say.
func (r *run) write(name string, piece []byte) {
	if len(r.output)+len(piece) > abi.MaxOutput {
		trapf("%s: the answer is longer than %d bytes", name, abi.MaxOutput)
	}
	r.output = append(r.output, piece...)
}

// grantedCall asks the parent, who knows what is granted, and waits.
func (r *run) grantedCall(m api.Module, name, takes string, stack []uint64) int32 {
	if r.hostCalls++; r.hostCalls > abi.MaxHostCalls {
		return abi.ErrQuota
	}
	ask := frame{kindHost, [][]byte{[]byte(name)}}
	tooLarge := false
	for _, kind := range takes {
		if kind == 'n' {
			ask.args = append(ask.args, number(int64(api.DecodeI32(stack[0]))))
			stack = stack[1:]
			continue
		}
		argument := view(m, name, stack[0], stack[1])
		tooLarge = tooLarge || len(argument) > abi.MaxArgument
		ask.args = append(ask.args, argument)
		stack = stack[2:]
	}
	switch {
	case tooLarge:
		return abi.ErrTooLarge
	case !r.asked && name != abi.FuncConfigGet:
		return abi.ErrNotDuringInit
	}
	r.needsCall(name)
	answer, err := r.exchange(ask)
	if err != nil {
		r.broken = err
		trapf("%s: the host is gone", name)
	}
	if len(answer.args) > 1 {
		r.result = answer.args[1]
		return int32(len(r.result))
	}
	return int32(parseNumber(answer.args[0]))
}

func (r *run) exchange(ask frame) (frame, error) {
	if err := ask.write(r.parent); err != nil {
		return frame{}, err
	}
	answer, err := readFrame(r.parent)
	if err == nil && (answer.kind != kindReply || len(answer.args) < 1) {
		err = errFrame
	}
	return answer, err
}
