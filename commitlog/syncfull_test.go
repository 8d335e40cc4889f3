package commitlog

import (
	"context"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/commitlog/segment"
)

// A file system that finds its room late, or a quota, says at a sync that there is
// none: what was to be synced is lost, and the next sync succeeds. Trims and
// truncations took that for a full disk, so the next flush called it durable.
func TestSyncWithoutSpaceIsAFailure(t *testing.T) {
	for name, kind := range map[string]errorfs.OpKind{"file": errorfs.OpFileSyncData, "directory": errorfs.OpFileSync} {
		for what, change := range map[string]func(l *Log) error{
			"trim":     func(l *Log) error { _, err := l.TrimTo(l.End()); return err },
			"truncate": func(l *Log) error { return l.TruncateTo(20) },
			"close":    func(l *Log) error { return l.Close(true) },
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				f := &fault{kinds: []errorfs.OpKind{kind}, err: syscall.EDQUOT}
				if name == "directory" {
					f.suffix = "/topic/0"
				} else {
					f.suffix = segment.LogSuffix
				}
				e := faultEnv(t, f)
				l := e.open()
				e.flusher.Close() // nothing but the change at hand syncs
				fill(t, l, 60)
				f.on.Store(true)
				err := change(l)
				require.Positive(t, f.hits.Load())
				require.ErrorIs(t, err, ErrFailed)
				require.Len(t, e.fatal, 1)
				require.Zero(t, l.FlushedEnd())
			})
		}
	}
}

// A log that is closed without a descriptor to sync with is not clean, but neither
// has it failed: the broker stopped where a replica was to move away.
func TestCloseWithoutFiles(t *testing.T) {
	f := &fault{kinds: []errorfs.OpKind{errorfs.OpOpenDir}, err: syscall.EMFILE}
	e := faultEnv(t, f)
	l := e.open()
	f.on.Store(true)
	fill(t, l, 10)
	require.ErrorIs(t, l.Close(true), ErrNoFiles)
	require.Empty(t, e.fatal)
	f.on.Store(false)
	l = e.open()
	require.EqualValues(t, 20, l.End())

	f.kinds, f.suffix = []errorfs.OpKind{errorfs.OpCreate}, checkpointName
	fill(t, l, 10)
	require.NoError(t, l.Flush(t.Context()))
	f.on.Store(true)
	require.NoError(t, l.Close(true), "all is durable: the next start reads the tail again")
	require.Empty(t, e.fatal)
	f.on.Store(false)
	l = e.open()
	require.EqualValues(t, 40, l.End())
	require.NoError(t, l.Close(true))
}

// Descriptors that run out at any point of a truncation or a compaction leave it
// undone or done, and the log fit for use.
func TestNoFilesAtEachPoint(t *testing.T) {
	kinds := []errorfs.OpKind{errorfs.OpCreate, errorfs.OpOpen, errorfs.OpOpenDir}
	for what, change := range map[string]func(l *Log) error{
		"truncate": func(l *Log) error { return l.TruncateTo(20) },
		"compact": func(l *Log) error {
			_, err := l.Compact(context.Background(), CompactOptions{UpTo: l.End(), Force: true})
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			for after := int64(0); ; after++ {
				f := &fault{kinds: kinds, err: syscall.EMFILE}
				dir := t.TempDir() + "/topic/0"
				require.NoError(t, os.MkdirAll(dir, 0o755))
				e := newEnv(t, errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(f.inject)), dir)
				e.fds = segment.NewFDCache(1)
				l := e.open()
				fill(t, l, 60)
				_, err := l.Roll()
				require.NoError(t, err)
				require.NoError(t, l.Flush(t.Context()))
				f.after.Store(after)
				f.on.Store(true)
				err = change(l)
				f.on.Store(false)
				if err != nil {
					require.ErrorIs(t, err, ErrNoFiles, "after %d", after)
				}
				require.NoError(t, l.Failed(), "after %d", after)
				require.Empty(t, e.fatal)
				require.NoError(t, change(l), "after %d", after)
				end := l.End()
				fill(t, l, 3)
				want := offsets(t, readAll(t, l, 0, 1<<20))
				require.NoError(t, l.Close(true))
				l = e.open()
				require.Equal(t, end+6, l.End())
				require.Equal(t, want, offsets(t, readAll(t, l, 0, 1<<20)), "after %d", after)
				require.NoError(t, l.Close(true))
				if f.hits.Load() == 0 {
					require.Greater(t, after, int64(3))
					return
				}
			}
		})
	}
}

// Idle descriptors of the logs give way to a flush that finds none: while nobody
// opened a segment it waited for ever, and with it the high watermark.
func TestIdleFilesGiveWayToAFlush(t *testing.T) {
	const limit = 3
	var armed atomic.Bool
	var e *env
	e = newEnv(t, errorfs.Wrap(memFS(t), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpOpenDir && armed.Load() && e.fds.Open() > limit {
			return syscall.EMFILE
		}
		return nil
	})), "/data/topic/0")
	l := e.open()
	fill(t, l, 200)
	require.NoError(t, l.Flush(t.Context()))
	readAll(t, l, 0, 1<<20)
	require.Greater(t, e.fds.Open(), limit+1, "idle ones of segments that were read")
	armed.Store(true)
	fill(t, l, 1)
	_, err := l.Roll()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*retryAfter)
	defer cancel()
	require.NoError(t, l.Flush(ctx))
	armed.Store(false)
	require.NoError(t, l.Close(true))
	require.Empty(t, e.fatal)
}
