//go:build !linux

package controller

import "time"

var started = time.Now()

// boottime is the monotonic clock, which may stand still while the machine sleeps:
// good enough to develop on.
func boottime() time.Duration { return time.Since(started) }
