package controller

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// boottime is CLOCK_BOOTTIME: it never goes back, and counts the time that the
// machine slept. Go reads the wall clock and the monotonic one without a system call,
// but not this one, and it is asked for each request; so it is read only when the
// machine may have slept since the last time, which shows as wall time that passed
// without monotonic time.
func boottime() time.Duration {
	now := time.Now()
	if b := bootBase.Load(); b != nil {
		passed := now.Sub(b.at)
		slept := time.Duration(now.UnixNano()-b.wall) - passed
		if slept.Abs() < clockSlack {
			return b.boot + passed
		}
	}
	b := &bootReading{boot: readBoottime(), at: now, wall: now.UnixNano()}
	bootBase.Store(b)
	return b.boot
}

// clockSlack is by how much wall and monotonic time may part before they are held
// against CLOCK_BOOTTIME: a shorter sleep goes unnoticed.
const clockSlack = 10 * time.Millisecond

// bootReading is CLOCK_BOOTTIME at a time: at counts by its monotonic reading, wall is
// ns since the Unix epoch.
type bootReading struct {
	boot time.Duration
	at   time.Time
	wall int64
}

var bootBase atomic.Pointer[bootReading]

func readBoottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("controller: CLOCK_BOOTTIME: " + err.Error()) // every Linux since 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}
