package controller

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestBoottimeSeesSleep: wall time that passed without monotonic time has the real
// clock read, whichever way it parted; else it is not.
func TestBoottimeSeesSleep(t *testing.T) {
	real := readBoottime()
	require.InDelta(t, real, boottime(), float64(time.Second))
	for _, slept := range []time.Duration{time.Minute, -time.Minute} {
		// The last reading is an hour off, to be told from the real clock.
		was := bootReading{boot: real + time.Hour, at: time.Now(), wall: time.Now().UnixNano()}
		bootBase.Store(&was)
		require.GreaterOrEqual(t, boottime(), was.boot, "read the clock though nothing happened")
		asleep := was
		asleep.wall -= int64(slept)
		bootBase.Store(&asleep)
		require.Less(t, boottime(), real+time.Minute, "did not look after the machine slept")
	}
}
