package raftnode

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// TestSnapshotCutsTheLog takes snapshots under way, and restarts from what is left:
// state and log tail, the snapshot alone, and a crash after the log was cut.
func TestSnapshotCutsTheLog(t *testing.T) {
	fs := vfs.NewCrashableMem()
	opts := Options{FS: fs, Dir: "/data/meta", SnapshotEntries: 10, TrailingEntries: 5, SnapshotInterval: time.Hour}
	n := openNode(t, opts)
	ready(t, n)
	register(t, n)
	for i := range 40 {
		createTopic(t, n, fmt.Sprintf("topic-%d", i), 1)
		if i%15 == 14 {
			require.NoError(t, n.Snapshot())
		}
	}
	store := &snapStore{fs: fs, dir: "/data/meta/snapshots"}
	metas, err := store.List()
	require.NoError(t, err)
	require.Len(t, metas, snapshotsKept)
	require.Greater(t, metas[0].Index, metas[1].Index)
	logs := &logStore{db: n.logDB}
	first, _, err := logs.bounds()
	require.NoError(t, err)
	require.Equal(t, metas[0].Index-opts.TrailingEntries+1, first, "the log was not cut")
	index, want, err := n.StateHash()
	require.NoError(t, err)

	same := func(fs vfs.FS) {
		t.Helper()
		again := openNode(t, Options{FS: fs, Dir: "/data/meta"})
		ready(t, again)
		got, hash, err := again.StateHash()
		require.NoError(t, err)
		require.Equal(t, index, got)
		require.Equal(t, want, hash)
		require.NoError(t, again.Close())
	}
	same(fs.CrashClone(vfs.CrashCloneCfg{}))
	lost := fs.CrashClone(vfs.CrashCloneCfg{})
	require.NoError(t, lost.RemoveAll("/data/meta/state"))
	same(lost)
	require.NoError(t, n.Close())
	same(fs)

	// What cannot be given back is an error, not an empty cluster.
	require.NoError(t, fs.RemoveAll("/data/meta/snapshots"))
	_, err = Open(Options{FS: fs, Dir: "/data/meta", DirectoryID: testDirectory, Bootstrap: alone})
	require.ErrorIs(t, err, command.ErrCorrupt)
	require.ErrorContains(t, err, "part of the directory was lost")
}

func TestNodeWithoutItsLogRefuses(t *testing.T) {
	fs := vfs.NewMem()
	n := openNode(t, Options{FS: fs, Dir: "/data/meta"})
	ready(t, n)
	register(t, n)
	require.NoError(t, n.Close())
	require.NoError(t, fs.RemoveAll("/data/meta/raft"))
	_, err := Open(Options{FS: fs, Dir: "/data/meta", DirectoryID: testDirectory, Bootstrap: alone})
	require.ErrorContains(t, err, "part of the directory was lost")
}

func TestCorruptSnapshotIsNotRestored(t *testing.T) {
	fs := vfs.NewMem()
	n := openNode(t, Options{FS: fs, Dir: "/data/meta"})
	ready(t, n)
	register(t, n)
	createTopic(t, n, "a", 100)
	require.NoError(t, n.Snapshot())
	store := &snapStore{fs: fs, dir: "/data/meta/snapshots"}
	metas, err := store.List()
	require.NoError(t, err)
	require.NoError(t, n.Close())
	path := store.path(metas[0].ID)
	b := readAll(t, fs, path)
	b[len(b)/2] ^= 1
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.Write(b)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, _, err = store.Open(metas[0].ID)
	require.ErrorIs(t, err, command.ErrCorrupt)
}

func TestSnapshotSinkCancelLeavesNothing(t *testing.T) {
	fs := vfs.NewMem()
	store, err := openSnapStore(fs, "/s")
	require.NoError(t, err)
	sink, err := store.Create(1, 5, 2, raft.Configuration{}, 1, nil)
	require.NoError(t, err)
	require.NoError(t, sink.Cancel())
	require.NoError(t, sink.Cancel())
	require.NoError(t, sink.Close())
	left, err := store.Create(1, 6, 2, raft.Configuration{}, 1, nil) // the process dies here
	require.NoError(t, err)
	require.NotNil(t, left)
	store, err = openSnapStore(fs, "/s")
	require.NoError(t, err)
	names, err := fs.List("/s")
	require.NoError(t, err)
	require.Empty(t, names)
	metas, err := store.List()
	require.NoError(t, err)
	require.Empty(t, metas)
}

// TestSubscribersSeeEveryChangeInOrder follows the partitions by deltas alone, while
// changes run, and compares with the image at the end. One subscriber is slow.
func TestSubscribersSeeEveryChangeInOrder(t *testing.T) {
	n := openNode(t, Options{FS: vfs.NewMem(), Dir: "/data/meta"})
	ready(t, n)
	epoch := register(t, n)
	topic := createTopic(t, n, "a", 20)
	var last atomic.Pointer[metadata.Image]
	seen := map[record.TopicPartition]record.Offset{}
	gate := make(chan struct{}, 1000)
	cancel := n.Subscribe(func(old, img *metadata.Image, d metadata.Delta) {
		if l := last.Load(); l != nil && l != old {
			t.Error("the old image is not the one delivered before")
		}
		last.Store(img)
		for _, tp := range d.Partitions {
			seen[tp] = img.Partition(tp).LogStart
		}
		<-gate
	})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 100 {
				tp := record.TopicPartition{Topic: topic, Partition: int32((i*4 + w) % 20)}
				res, err := n.Propose(context.Background(), &command.AdvanceLogStart{BrokerID: 1, BrokerEpoch: epoch,
					Partitions: []command.LogStartChange{{Partition: tp, LogStart: record.Offset(i)}}})
				if err != nil || res.Items[0].Err != nil {
					t.Error(err, res)
				}
				if n.Image().Index() < res.Index {
					t.Error("the image lags behind the answer")
				}
			}
		})
	}
	wg.Wait()
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	require.ErrorIs(t, n.Delivered(short, n.Image().Index()), context.DeadlineExceeded)
	stop()
	close(gate)
	require.NoError(t, n.Delivered(t.Context(), n.Image().Index()))
	require.Len(t, seen, 20)
	for tp, p := range n.Image().AllPartitions() {
		require.Equal(t, p.LogStart, seen[tp])
	}
	cancel()
	before := last.Load()
	createTopic(t, n, "b", 1)
	require.NoError(t, n.Delivered(t.Context(), n.Image().Index()))
	require.Same(t, before, last.Load(), "called after cancel")
	require.NoError(t, n.Close())
	require.ErrorIs(t, n.Delivered(t.Context(), 1<<60), metadata.ErrClosed)
}

// TestCloseAnswersEveryone closes the node under proposals: each is answered, and
// what was answered with success is there after the restart.
func TestCloseAnswersEveryone(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, Options{Dir: dir})
	ready(t, n)
	register(t, n)
	var mu sync.Mutex
	var made []string
	var wg sync.WaitGroup
	started := make(chan struct{})
	var once sync.Once
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("t-%d-%d", w, i)
				_, err := n.Propose(t.Context(), &command.CreateTopics{Topics: []command.NewTopic{{ID: record.NewTopicID(), Name: name, Assignments: [][]int32{{1}}}}})
				if err != nil {
					if !errors.Is(err, metadata.ErrClosed) {
						t.Errorf("not answered by Raft: %v", err)
					}
					return
				}
				mu.Lock()
				made = append(made, name)
				mu.Unlock()
				if i == 5 {
					once.Do(func() { close(started) })
				}
			}
		})
	}
	<-started
	require.NoError(t, n.Close())
	wg.Wait()
	require.NoError(t, n.Close())
	n = openNode(t, Options{Dir: dir})
	ready(t, n)
	for _, name := range made {
		require.NotNil(t, n.Image().TopicByName(name), name)
	}
	require.NoError(t, n.Close())
}

func TestProposeErrors(t *testing.T) {
	// Nobody bootstraps: there is no leader.
	n, err := Open(Options{FS: vfs.NewMem(), Dir: "/data/meta", DirectoryID: testDirectory})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	_, err = n.Propose(ctx, &command.PurgeTopic{Topic: record.NewTopicID()})
	require.ErrorIs(t, err, metadata.ErrNotLeader)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, n.Ready(ctx), context.DeadlineExceeded)
	_, err = n.Propose(ctx, &command.PurgeTopic{Topic: record.NewTopicID()})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	cancel()
	waiting := make(chan error, 1)
	go func() { waiting <- n.ReadBarrier(context.Background()) }()
	require.NoError(t, n.Close())
	require.ErrorIs(t, <-waiting, metadata.ErrClosed)
	require.ErrorIs(t, n.Ready(t.Context()), metadata.ErrClosed)
	_, err = Open(Options{FS: vfs.NewMem(), Dir: "/d"})
	require.ErrorContains(t, err, "directory id")
	_, err = Open(Options{FS: vfs.NewMem(), Dir: "/d", DirectoryID: uuid.New(), Bootstrap: alone})
	require.ErrorIs(t, err, command.ErrInvalid)
}
