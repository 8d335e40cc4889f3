package partition

import (
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// After kill -9 the log's tail is in the page cache alone. A fetch that came
// before the flusher had synced it was shown a watermark below what had been
// acknowledged and read; so it is synced before the partition is served.
func TestARecoveredTailIsSyncedBeforeItIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gate chan struct{}
		fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData
			if gate != nil && sync && strings.HasSuffix(op.Path, ".log") {
				<-gate
			}
			return nil
		}))
		b := newBenchOn(t, fs, map[string]string{"durability": "fsync"})
		b.append(batch(5, plain()), true)
		require.NoError(t, b.set.Close(false)) // no checkpoint: as a killed process leaves it
		b.shut()
		gate = make(chan struct{})
		open := sync.OnceFunc(func() { close(gate) })
		defer open()
		b.open()
		applied := make(chan struct{})
		go func() {
			defer close(applied)
			b.set.Apply(metadata.Empty(), b.img, b.img.Everything())
		}()
		synctest.Wait()
		select {
		case <-applied:
			t.Fatalf("served at %+v", b.part().State())
		default:
		}
		open()
		<-applied
		st := b.part().State()
		require.EqualValues(t, 5, st.LogEnd)
		require.EqualValues(t, 5, st.HighWatermark)
	})
}

// A log that cannot be opened is offline, not elsewhere: its clients are to come
// again, not to look for another leader. When its topic goes, so does its directory.
func TestAPartitionThatDoesNotOpenIsOfflineAndCanBeDeleted(t *testing.T) {
	mem := vfs.NewMem()
	broken := false
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken && op.Kind == errorfs.OpOpen && strings.HasSuffix(op.Path, "recovery.checkpoint") {
			return syscall.EIO
		}
		return nil
	}))
	b := newBenchOn(t, fs, nil)
	b.append(batch(5, plain()), true)
	b.shut()
	broken = true
	b.open()
	b.set.Apply(metadata.Empty(), b.img, b.img.Everything())
	require.Contains(t, b.set.Failed(), b.tp)
	_, err := b.set.Lookup(b.tp)
	require.ErrorIs(t, err, kerr.KafkaStorageError)
	_, err = b.set.Lookup(record.TopicPartition{Topic: b.topic, Partition: 9})
	require.ErrorIs(t, err, kerr.NotLeaderForPartition)
	b.edit(func(e *metadata.Editor) { e.DeleteTopic(b.topic) })
	require.Empty(t, b.set.Failed())
	left, err := b.dir.ListPartitions()
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestAStateOutOfOrderIsFound(t *testing.T) {
	good := State{Role: replica.Leader, LogStart: 1, LocalStart: 2, RemoteEnd: 3, LastStable: 4, HighWatermark: 5, LogEnd: 6, FlushedEnd: 6}
	require.NoError(t, good.check())
	for name, spoil := range map[string]func(*State){
		"a hole between the tiers":   func(s *State) { s.LocalStart = 4 },
		"local below the log start":  func(s *State) { s.LogStart = 3 },
		"remote above the watermark": func(s *State) { s.RemoteEnd = 6 },
		"watermark above the end":    func(s *State) { s.HighWatermark = 7 },
		"flushed above the end":      func(s *State) { s.FlushedEnd = 7 },
		"stable above the watermark": func(s *State) { s.LastStable = 6 },
	} {
		bad := good
		spoil(&bad)
		require.ErrorIs(t, bad.check(), replica.ErrInvariant, name)
		bad.Role = replica.Follower
		require.NoError(t, bad.check(), "a follower may be behind")
	}
}
