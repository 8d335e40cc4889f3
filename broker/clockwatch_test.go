package broker

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A clock that is off stops deletion by time, and no line said so: one when it begins, one
// when it ends, and none of a clock that wavers at the limit.
func TestAClockThatIsOffIsTwoLines(t *testing.T) {
	var out bytes.Buffer
	w := clockWatch{log: slog.New(slog.NewTextHandler(&out, nil))}
	said := func(behind time.Duration) string {
		out.Reset()
		w.look(behind)
		return out.String()
	}
	require.Empty(t, said(9900*time.Millisecond))
	line := said(-62 * time.Minute)
	require.Contains(t, line, "level=WARN")
	require.Contains(t, line, "the clock of this node is 1h2m0s ahead of the cluster's: it deletes nothing by time until its clock is set")
	require.Empty(t, said(-62*time.Minute))
	for range 3 {
		require.Empty(t, said(-9900*time.Millisecond))
		require.Empty(t, said(-10100*time.Millisecond))
	}
	line = said(3 * time.Millisecond)
	require.Contains(t, line, "level=INFO")
	require.Contains(t, line, "agrees with the cluster's again")
	require.Empty(t, said(0))
	require.Contains(t, said(11*time.Second), "is 11s behind the cluster's")
}
