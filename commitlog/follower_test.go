package commitlog

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/record"
)

// A leader that wrote nothing has recorded its epoch. As a follower of another
// lineage it is told to cut at the log's end: no record goes, but the epoch must,
// or it is told so for ever.
func TestTruncateAtTheEndForgetsTheEpochsThatBeginThere(t *testing.T) {
	e := memEnv(t)
	l := e.open()
	require.NoError(t, l.Append([]record.Batch{batch(0, 1, 10, "a", "b")}))
	require.NoError(t, l.AssignEpoch(3, 2))
	require.NoError(t, l.TruncateTo(5))
	require.EqualValues(t, 3, l.LastEpoch(), "above the end nothing is to be done")
	require.NoError(t, l.TruncateTo(2))
	require.EqualValues(t, 1, l.LastEpoch())
	require.EqualValues(t, 2, l.End())
	require.NoError(t, l.Close(true))
	l = e.open()
	require.EqualValues(t, 1, l.LastEpoch())
	require.NoError(t, l.Close(true))
}

// The same, but a crash comes before the next checkpoint: the batches of the
// older epoch that followed say what the log's history is.
func TestAForgottenEpochThatACrashBringsBackYieldsToTheBatches(t *testing.T) {
	fs := memFS(t)
	e := newEnv(t, fs, "/data/topic/0")
	l := e.open()
	require.NoError(t, l.Append([]record.Batch{batch(0, 1, 10, "a", "b")}))
	require.NoError(t, l.AssignEpoch(3, 2))
	l.files.Lock()
	require.NoError(t, l.flush(true, nil)) // the checkpoint has epoch 3
	l.files.Unlock()
	require.NoError(t, l.TruncateTo(2))
	require.NoError(t, l.Append([]record.Batch{batch(2, 2, 20, "c")}))
	require.NoError(t, l.Flush(context.Background()))
	crashed := newEnv(t, fs.CrashClone(vfs.CrashCloneCfg{}), e.dir)
	require.NoError(t, l.Close(false))

	l = crashed.open()
	require.EqualValues(t, 3, l.End())
	require.Equal(t, []EpochStart{{1, 0}, {2, 2}}, l.Epochs())
	require.NoError(t, l.Close(true))
}

func TestNoteEpoch(t *testing.T) {
	for _, c := range []struct {
		have EpochCache
		e    record.Epoch
		want EpochCache
	}{
		{nil, 2, EpochCache{{2, 9}}},
		{EpochCache{{1, 0}}, 2, EpochCache{{1, 0}, {2, 9}}},
		{EpochCache{{1, 0}}, 1, EpochCache{{1, 0}}},
		{EpochCache{{1, 0}, {3, 9}}, 1, EpochCache{{1, 0}}},
		{EpochCache{{1, 0}, {3, 9}}, 2, EpochCache{{1, 0}, {2, 9}}},
		{EpochCache{{3, 9}}, 2, EpochCache{{2, 9}}},
	} {
		before := append(EpochCache(nil), c.have...)
		got := c.have
		got.Note(c.e, 9)
		require.Equal(t, c.want, got)
		require.Equal(t, before, c.have, "readers keep what they have")
	}
}
