package commitlog

import (
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
)

// The disk had no room for a checkpoint while segment after segment was written,
// and retention then took all of those that the last checkpoint names. The next
// start took that for a loss and refused the log.
func TestATrimOnAFullDiskTakesNotAllThatTheCheckpointNames(t *testing.T) {
	f := &fault{kinds: []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpCreate}, suffix: checkpointName, err: syscall.ENOSPC}
	e := faultEnv(t, f)
	l := e.open()
	fill(t, l, 5)
	require.NoError(t, l.Close(true))
	l = e.open()
	f.on.Store(true)
	fill(t, l, 80)
	freed, err := l.TrimTo(l.End())
	require.NoError(t, err)
	require.Positive(t, freed)
	require.Positive(t, f.hits.Load())
	start, end := l.Start(), l.End()
	require.NoError(t, l.Close(false))

	f.on.Store(false)
	l = e.open()
	require.Equal(t, start, l.Start())
	require.Equal(t, end, l.End())
	require.NoError(t, l.Close(true))
}
