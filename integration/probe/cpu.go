package probe

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// userHZ is the unit of CPU time in /proc: 100 ticks a second on every Linux.
const userHZ = 100

// maxPID is the largest process id that Linux gives out.
const maxPID = 1 << 22

// ErrProcStat is returned for a /proc/<pid>/stat that cannot be understood.
var ErrProcStat = errors.New("probe: unexpected content of /proc stat")

// ProcessCPU returns the CPU time that all threads of a process took so far,
// user and system together, from the kernel's clock of that process: to the
// microsecond, ended threads included. Where there is no such clock it is read
// from /proc, to 10 ms. A pid of 0 is this process.
func ProcessCPU(pid int) (time.Duration, error) {
	// What clock_getcpuclockid(3) returns: the bits of the pid turned over, and
	// 2 for time that the scheduler counted (CPUCLOCK_SCHED).
	clock := int32(^pid)<<3 | 2
	if pid == 0 {
		clock = unix.CLOCK_PROCESS_CPUTIME_ID
	}
	var t unix.Timespec
	if pid > maxPID {
		return statCPU(pid)
	}
	if err := unix.ClockGettime(clock, &t); err == nil {
		return time.Duration(t.Nano()), nil
	}
	return statCPU(pid)
}

// statCPU is ProcessCPU by /proc/<pid>/stat.
func statCPU(pid int) (time.Duration, error) {
	name := "self"
	if pid != 0 {
		name = strconv.Itoa(pid)
	}
	stat, err := os.ReadFile("/proc/" + name + "/stat")
	if err != nil {
		return 0, fmt.Errorf("probe: CPU of process %s: %w", name, err)
	}
	return parseStat(stat)
}

// parseStat sums utime and stime, fields 14 and 15 of proc(5). The second field
// is the command in parentheses and may hold anything, so the fields are
// counted from its end.
func parseStat(stat []byte) (time.Duration, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, fmt.Errorf("%w: no command", ErrProcStat)
	}
	fields := bytes.Fields(stat[end+1:]) // begins with field 3
	if len(fields) < 13 {
		return 0, fmt.Errorf("%w: %d fields", ErrProcStat, len(fields)+2)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrProcStat, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / userHZ), nil
}

// Meter measures wall time and CPU time of a process and of this one over a
// span.
type Meter struct {
	pid    int
	start  time.Time
	target time.Duration
	self   time.Duration
}

// StartMeter begins a span. A pid of 0 measures this process alone.
func StartMeter(pid int) (*Meter, error) {
	m := &Meter{pid: pid}
	var err error
	if m.target, err = ProcessCPU(pid); err != nil {
		return nil, err
	}
	if m.self, err = ProcessCPU(0); err != nil {
		return nil, err
	}
	m.start = time.Now()
	return m, nil
}

// Usage is what a span took.
type Usage struct {
	Wall   time.Duration
	Target time.Duration // CPU time of the measured process
	Self   time.Duration // CPU time of this process
}

// Stop ends the span.
func (m *Meter) Stop() (Usage, error) {
	u := Usage{Wall: time.Since(m.start)}
	target, err := ProcessCPU(m.pid)
	if err != nil {
		return Usage{}, err
	}
	self, err := ProcessCPU(0)
	if err != nil {
		return Usage{}, err
	}
	u.Target, u.Self = target-m.target, self-m.self
	return u, nil
}
