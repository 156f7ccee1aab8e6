package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processTime is the processor time that process pid and those it started have
// used, as far as they are alive or have been waited for: a login is served by
// a worker of the server's too.
func processTime(pid int) (time.Duration, error) {
	own, err := readStat(pid)
	if err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	var others []stat
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil || id == pid {
			continue
		}
		if s, err := readStat(id); err == nil { // else it has just ended
			others = append(others, s)
		}
	}
	return total(own, others), nil
}

// total adds up root and its descendants among others.
func total(root stat, others []stat) time.Duration {
	family, sum := []int{root.pid}, root.own+root.waited
	for i := 0; i < len(family); i++ {
		for _, o := range others {
			if o.parent == family[i] && !slices.Contains(family, o.pid) {
				family = append(family, o.pid)
				sum += o.own + o.waited
			}
		}
	}
	return sum
}

// stat is what /proc/PID/stat says of a process: the time used by itself and by
// those of its children that it has waited for.
type stat struct {
	pid, parent int
	own, waited time.Duration
}

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	s, err := parseStat(string(text))
	if err != nil {
		return stat{}, err
	}
	// The same figure from the process's own clock comes in nanoseconds, where
	// /proc has steps of 10 ms, which is a tenth of a short slice.
	var exact unix.Timespec
	if unix.ClockGettime(processClock(pid), &exact) == nil {
		s.own = time.Duration(exact.Nano())
	}
	return s, nil
}

// processClock is the id of the processor-time clock of a process:
// clock_getcpuclockid(3), which is arithmetic in the C library.
func processClock(pid int) int32 { return ^int32(pid)<<3 | 2 }

// tick is the unit of /proc's times: USER_HZ, which is 100 on every Linux that
// Go runs on.
const tick = 10 * time.Millisecond

func parseStat(text string) (stat, error) {
	id, _, found := strings.Cut(text, " ")
	end := strings.LastIndex(text, ") ") // the name, in parentheses, may hold anything
	if !found || end < 0 {
		return stat{}, fmt.Errorf("unknown form of /proc/PID/stat: %q", text)
	}
	fields := strings.Fields(text[end+2:])
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("unknown form of /proc/PID/stat: %q", text)
	}
	// fields[0] is the third of proc(5): ppid is the 4th; utime, stime, cutime,
	// cstime are the 14th to 17th.
	numbers := make([]int, 6)
	for i, f := range append([]string{id, fields[1]}, fields[11:15]...) {
		n, err := strconv.Atoi(f)
		if err != nil {
			return stat{}, fmt.Errorf("unknown form of /proc/PID/stat: %q", text)
		}
		numbers[i] = n
	}
	s := stat{pid: numbers[0], parent: numbers[1]}
	s.own = time.Duration(numbers[2]+numbers[3]) * tick
	s.waited = time.Duration(numbers[4]+numbers[5]) * tick
	return s, nil
}

// ownTime is the processor time of this process.
func ownTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
