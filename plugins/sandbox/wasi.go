package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/tetratelabs/wazero/api"
)

// Errors of WASI preview 1 that the shim answers with.
const (
	wasiOK     = 0
	wasiBadF   = 8
	wasiNoSys  = 52
	wasiSPipe  = 70
	wasiInval  = 28
	charDevice = 2
)

// The shim opens nothing. It is here because every toolchain imports some of
// it, and it keeps no state but what the run has: a frozen clock, the request
// as standard input in the stdio profile, and the log.
func wasiFunc(name string) api.GoModuleFunc {
	errno := func(n uint64) api.GoModuleFunc {
		return func(_ context.Context, _ api.Module, stack []uint64) { stack[0] = n }
	}
	switch name {
	case "args_sizes_get", "environ_sizes_get":
		return func(_ context.Context, m api.Module, stack []uint64) {
			put32(m, name, stack[0], 0)
			put32(m, name, stack[1], 0)
			stack[0] = wasiOK
		}
	case "args_get", "environ_get", "sched_yield", "fd_fdstat_set_flags":
		return errno(wasiOK)
	case "clock_res_get":
		return func(_ context.Context, m api.Module, stack []uint64) {
			put64(m, name, stack[1], uint64(time.Microsecond))
			stack[0] = wasiOK
		}
	case "clock_time_get":
		return func(ctx context.Context, m api.Module, stack []uint64) {
			put64(m, name, stack[2], uint64(runOf(ctx).clock(uint32(stack[0]))))
			stack[0] = wasiOK
		}
	case "random_get":
		return func(ctx context.Context, m api.Module, stack []uint64) {
			into := view(m, name, stack[0], stack[1])
			runOf(ctx).spend(name, randomFuel*int64(len(into)))
			rand.Read(into)
			stack[0] = wasiOK
		}
	case "fd_write":
		return fdWrite
	case "fd_read":
		return fdRead
	case "fd_fdstat_get":
		return fdStat
	case "fd_seek":
		return func(_ context.Context, _ api.Module, stack []uint64) {
			if uint32(stack[0]) <= 2 {
				stack[0] = wasiSPipe
				return
			}
			stack[0] = wasiBadF
		}
	case "fd_close", "fd_prestat_get", "fd_prestat_dir_name":
		return errno(wasiBadF)
	case "poll_oneoff":
		return pollOneoff
	case "proc_exit":
		return func(_ context.Context, _ api.Module, stack []uint64) { panic(&exit{uint32(stack[0])}) }
	}
	return errno(wasiNoSys)
}

// clock is the frozen time, a microsecond later at each look so that code which
// waits for it to move does not wait for ever.
func (r *run) clock(id uint32) int64 {
	r.ticks += time.Microsecond
	if id == 0 {
		r.needsCall("clock_time_get of the real time")
		return r.now.Add(r.ticks).UnixNano()
	}
	return int64(r.ticks) + int64(time.Second)
}

// maxVectors bounds the pieces of one read or write.
const maxVectors = 1024

// eachVector hands the pieces of a scatter list to use, until it says stop.
func eachVector(ctx context.Context, m api.Module, name string, pointer, count uint64, use func([]byte) bool) bool {
	if uint32(count) > maxVectors {
		return false
	}
	runOf(ctx).spend(name, pieceFuel*int64(uint32(count)))
	list := view(m, name, pointer, 8*uint64(uint32(count)))
	for ; len(list) > 0; list = list[8:] {
		at, n := binary.LittleEndian.Uint32(list), binary.LittleEndian.Uint32(list[4:])
		if !use(view(m, name, uint64(at), uint64(n))) {
			break
		}
	}
	return true
}

func fdWrite(ctx context.Context, m api.Module, stack []uint64) {
	const name = "fd_write"
	r, fd, written := runOf(ctx), uint32(stack[0]), uint32(0)
	if fd != 1 && fd != 2 {
		stack[0] = wasiBadF
		return
	}
	ok := eachVector(ctx, m, name, stack[1], stack[2], func(piece []byte) bool {
		if r.stdio && fd == 1 {
			r.write(name, piece)
		} else {
			r.spend(name, copyingFuel*int64(len(piece)))
			r.log.write(int(fd), piece)
		}
		written += uint32(len(piece))
		return true
	})
	if !ok {
		stack[0] = wasiInval
		return
	}
	put32(m, name, stack[3], written)
	stack[0] = wasiOK
}

func fdRead(ctx context.Context, m api.Module, stack []uint64) {
	const name = "fd_read"
	r, total := runOf(ctx), uint32(0)
	if uint32(stack[0]) != 0 {
		stack[0] = wasiBadF
		return
	}
	ok := eachVector(ctx, m, name, stack[1], stack[2], func(piece []byte) bool {
		if !r.stdio {
			return false // the core profile has no standard input: it reads as ended
		}
		n := copy(piece, r.input[r.read:])
		r.spend(name, int64(n)>>copyBits)
		r.read += n
		total += uint32(n)
		return n == len(piece)
	})
	if !ok {
		stack[0] = wasiInval
		return
	}
	put32(m, name, stack[3], total)
	stack[0] = wasiOK
}

func fdStat(_ context.Context, m api.Module, stack []uint64) {
	const name = "fd_fdstat_get"
	if uint32(stack[0]) > 2 {
		stack[0] = wasiBadF
		return
	}
	stat := view(m, name, stack[1], 24)
	clear(stat)
	stat[0] = charDevice
	binary.LittleEndian.PutUint64(stat[8:], ^uint64(0))  // rights
	binary.LittleEndian.PutUint64(stat[16:], ^uint64(0)) // rights to inherit
	stack[0] = wasiOK
}

// pollOneoff returns at once. A wait for the clock moves the frozen clock as
// far as was asked, so that a sleep has happened and cost nothing.
func pollOneoff(ctx context.Context, m api.Module, stack []uint64) {
	const name, subscription, event = "poll_oneoff", 48, 32
	r, n := runOf(ctx), uint64(uint32(stack[2]))
	if n == 0 || n > maxVectors {
		stack[0] = wasiInval
		return
	}
	r.spend(name, pieceFuel*int64(n))
	in, out := view(m, name, stack[0], n*subscription), view(m, name, stack[1], n*event)
	for i := range n {
		sub, ev := in[i*subscription:], out[i*event:(i+1)*event]
		clear(ev)
		copy(ev, sub[:8]) // userdata
		ev[10] = sub[8]   // type: clock, read or write
		if sub[8] == 0 {
			r.sleep(binary.LittleEndian.Uint32(sub[16:]), binary.LittleEndian.Uint64(sub[24:]), sub[40]&1 != 0)
		}
	}
	put32(m, name, stack[3], uint32(n))
	stack[0] = wasiOK
}

// sleep moves the clock by a time, or to one.
func (r *run) sleep(clock uint32, until uint64, absolute bool) {
	const longest = uint64(time.Hour)
	if !absolute {
		r.ticks += time.Duration(min(until, longest))
		return
	}
	if now := uint64(r.clock(clock)); until > now {
		r.ticks += time.Duration(min(until-now, longest))
	}
}

func put32(m api.Module, name string, pointer uint64, value uint32) {
	binary.LittleEndian.PutUint32(view(m, name, pointer, 4), value)
}

func put64(m api.Module, name string, pointer uint64, value uint64) {
	binary.LittleEndian.PutUint64(view(m, name, pointer, 8), value)
}
