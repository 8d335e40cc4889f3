// Package testclock stands in for the functions of package time that read the wall
// clock, in programs that tests build: see buildShifted. The wall clock is as many
// seconds ahead as the file says that FIRN_TEST_CLOCK names; the monotonic clock is
// left alone, as it is when somebody sets a machine's clock.
package testclock

import (
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// ahead is mapped from the file: seconds in the machine's byte order.
var ahead = open()

func open() *atomic.Int64 {
	path := os.Getenv("FIRN_TEST_CLOCK")
	if path == "" {
		return new(atomic.Int64)
	}
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	at, err := syscall.Mmap(int(f.Fd()), 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("map " + path + ": " + err.Error())
	}
	return (*atomic.Int64)(unsafe.Pointer(&at[0]))
}

// reading is how package time lays a Time out that has a monotonic reading: a flag,
// 33 bits of seconds and 30 bits of nanoseconds, and the monotonic clock apart.
type reading struct {
	wall uint64
	ext  int64
	loc  *time.Location
}

// Now is time.Now.
func Now() time.Time {
	t := time.Now()
	(*reading)(unsafe.Pointer(&t)).wall += uint64(ahead.Load()) << 30
	return t
}

// Since is time.Since.
func Since(t time.Time) time.Duration { return Now().Sub(t) }

// Until is time.Until.
func Until(t time.Time) time.Duration { return t.Sub(Now()) }
