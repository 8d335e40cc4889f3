package commitlog

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// An append needed two segments. Between the two the flusher wrote a checkpoint
// that vouched for the first, which was not part of the log yet; then the disk
// was full. To undo the append another checkpoint was needed, for which there was
// no room: the log failed, and the broker stopped, where a producer should have
// been asked to try again.
func TestNoSpaceToUndoWhatACheckpointVouchesFor(t *testing.T) {
	var l *Log
	var armed, full atomic.Bool
	var writes int
	e := newEnv(t, errorfs.Wrap(memFS(t), errorfs.InjectorFunc(func(op errorfs.Op) error {
		name := strings.TrimSuffix(op.Path, segment.TempSuffix)
		switch {
		case op.Kind == errorfs.OpFileWriteAt && armed.Load() && strings.HasSuffix(name, segment.LogSuffix):
			if writes++; writes == 40 { // in the second segment or later
				armed.Store(false)
				l.files.Lock()
				defer l.files.Unlock()
				require.NoError(t, l.flush(true, nil))
				full.Store(true)
			}
		case op.Kind == errorfs.OpCreate && full.Load() && strings.HasSuffix(name, checkpointName):
			return syscall.ENOSPC
		}
		if full.Load() && op.Kind == errorfs.OpFileWriteAt {
			return syscall.ENOSPC
		}
		return nil
	})), "/data/topic/0")
	l = e.open()
	fill(t, l, 5)
	flush(t, l)
	raw := readAll(t, l, 0, 1<<20)
	var batches []record.Batch
	for i := range record.Offset(60) {
		batches = append(batches, batch(10+i*2, 5, 0, "value-one", "value-two"))
	}
	armed.Store(true)
	require.ErrorIs(t, l.Append(batches), ErrNoSpace)
	require.NoError(t, l.Failed())
	require.EqualValues(t, 10, l.End())
	full.Store(false)
	require.NoError(t, l.Append(batches))
	flush(t, l)
	require.EqualValues(t, 130, l.FlushedEnd())
	require.Equal(t, raw, readAll(t, l, 0, 1<<20)[:len(raw)])
	require.NoError(t, l.Close(false))
	l = e.open()
	require.EqualValues(t, 130, l.End())
	require.NoError(t, l.Close(true))
}
