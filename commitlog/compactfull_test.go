package commitlog

import (
	"context"
	"path"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// Compaction swapped a segment in when the disk had no room for the checkpoint
// that follows. The files of the segments that it replaced stayed until the next
// start: compaction made a full disk no emptier.
func TestCompactFreesAFullDisk(t *testing.T) {
	f := &fault{kinds: []errorfs.OpKind{errorfs.OpCreate}, suffix: checkpointName, err: syscall.ENOSPC}
	e := faultEnv(t, f)
	l := e.open()
	more := func() {
		for range 60 {
			require.NoError(t, l.Append([]record.Batch{keyed(l.End(), record.CodecNone, "a", strings.Repeat("x", 100), "b", "y")}))
		}
		flush(t, l)
		store(t, l)
	}
	opts := CompactOptions{Now: time.Now(), Force: true}
	compact := func() CompactStats {
		opts.UpTo = l.End()
		stats, err := l.Compact(context.Background(), opts)
		require.NoError(t, err)
		return stats
	}
	more()
	compact()
	more()
	f.after.Store(1) // the checkpoint that says that the swap is due
	f.on.Store(true)
	opts.UpTo = l.End()
	_, err := l.Compact(context.Background(), opts)
	require.ErrorIs(t, err, ErrNoSpace, "the second group is not begun")
	require.NoError(t, l.Failed())
	onDisk := func() (n int) {
		names, err := e.fs.List(e.dir)
		require.NoError(t, err)
		for _, name := range names {
			if path.Ext(name) == segment.LogSuffix {
				n++
			}
		}
		return n
	}
	require.Equal(t, len(l.Segments()), onDisk())
	want := readAll(t, l, l.Start(), 1<<20)
	end := l.End()
	require.NoError(t, l.Close(false))
	f.on.Store(false)
	l = e.open()
	require.Equal(t, end, l.End())
	require.Equal(t, want, readAll(t, l, l.Start(), 1<<20))
	require.NoError(t, l.Close(true))
}
