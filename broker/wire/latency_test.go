package wire

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHistogramPutsEachLatencyIntoItsBucket(t *testing.T) {
	var h histogram
	h.observe(100 * time.Microsecond) // a bound belongs to its own bucket
	h.observe(101 * time.Microsecond)
	h.observe(time.Minute)
	l := h.read()
	require.EqualValues(t, 1, l.Counts[0])
	require.EqualValues(t, 1, l.Counts[1])
	require.EqualValues(t, 1, l.Counts[len(LatencyBounds)])
	require.InDelta(t, 60.000201, l.Sum, 1e-9)
}
