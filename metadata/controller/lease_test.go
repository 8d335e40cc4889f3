package controller

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLease: it counts on its own clock, from when it was asked for, and never
// shrinks but by its end.
func TestLease(t *testing.T) {
	now := time.Hour
	l := Lease{clock: func() time.Duration { return now }}
	require.False(t, l.Valid(), "valid before the first heartbeat")
	l.extend(now, 3*time.Second)
	l.extend(now-time.Second, 3*time.Second)
	require.Equal(t, 3*time.Second, l.Left())
	now += 3*time.Second - 1
	require.True(t, l.Valid())
	now++
	require.False(t, l.Valid())
	require.Zero(t, l.Left())
	l.extend(now, time.Second)
	require.True(t, l.Valid())
	l.end()
	require.False(t, l.Valid())
}

// TestBoottime: the machine's clock moves on, and is past zero.
func TestBoottime(t *testing.T) {
	a := boottime()
	require.Positive(t, a)
	require.GreaterOrEqual(t, boottime(), a)
}

func BenchmarkLeaseValid(b *testing.B) {
	l := Lease{clock: boottime}
	l.extend(boottime(), time.Hour)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if !l.Valid() {
				b.Error("ended")
			}
		}
	})
}
