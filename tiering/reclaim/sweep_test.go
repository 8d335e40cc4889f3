package reclaim_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/faulty"
	"github.com/firnlog/firn/tiering/objstore/storetest"
	"github.com/firnlog/firn/tiering/reclaim"
)

// A deletion waits out its grace, and only then the bytes go.
func TestDeleteWaitsForGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		gone := w.copied(t, partition(0), 0, 10, 1)
		kept := w.copied(t, partition(0), 10, 20, 2)
		w.logStart(partition(0), 10)
		s := w.sweeper(t, nil, 1, "us")
		p, err := s.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, reclaim.Pass{Started: 1, Waiting: 1, OrphansListed: 2}, p)
		require.Empty(t, w.meta.Parts[partition(0)].Manifest.Expired())
		time.Sleep(grace - time.Second)
		p, err = s.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, p.Waiting)
		_, err = w.bucket.Head(t.Context(), w.lay.Object(gone))
		require.NoError(t, err, "still within the grace period")
		time.Sleep(time.Second)
		p, err = s.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, p.Deleted)
		require.Positive(t, p.DeletedBytes)
		_, err = w.bucket.Head(t.Context(), w.lay.Object(gone))
		require.ErrorIs(t, err, objstore.ErrNotExist)
		_, err = w.bucket.Head(t.Context(), w.lay.Object(kept))
		require.NoError(t, err)
		w.requireClean(t, quiet)
	})
}

// A new metadata leader counts the grace anew.
func TestNewLeaderCountsGraceAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.copied(t, partition(0), 0, 10, 1)
		w.logStart(partition(0), 10)
		_, err := w.sweeper(t, nil, 1, "us").Pass(t.Context())
		require.NoError(t, err)
		time.Sleep(2 * grace)
		p, err := w.sweeper(t, nil, 1, "us").Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, p.Waiting)
	})
}

// Keys that the store does not confirm are kept, and tried again.
func TestDeleteKeyByKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range byte(4) {
			w.copied(t, partition(0), record.Offset(i)*10, record.Offset(i)*10+10, i+1)
		}
		w.logStart(partition(0), 40)
		s := w.sweeper(t, nil, 1, "us")
		_, err := s.Pass(t.Context())
		require.NoError(t, err)
		time.Sleep(grace)
		w.store.SetPlan(func(c faulty.Call) faulty.Fault {
			if c.Op == "delete" && strings.HasSuffix(c.Key, "3") {
				return faulty.Fault{Kind: faulty.Unavailable}
			}
			return faulty.Fault{}
		})
		p, err := s.Pass(t.Context())
		require.ErrorIs(t, err, objstore.ErrTransient)
		require.Equal(t, 3, p.Deleted)
		o, known, err := w.meta.Object(t.Context(), uuid.UUID{15: 3})
		require.NoError(t, err)
		require.True(t, known)
		require.Equal(t, metadata.ObjectDeleting, o.State)
		w.store.SetPlan(nil)
		p, err = s.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, p.Deleted)
		w.requireClean(t, quiet)
	})
}

// An intent whose owner is gone is given up; one whose owner lives is not.
func TestStaleIntents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		begin := func(tp record.TopicPartition, id byte) {
			p := w.meta.Parts[tp]
			_, err := w.meta.Propose(t.Context(), &command.CopyStarted{Partition: tp, Object: uuid.UUID{15: id}, Store: "warm", End: 10,
				Fence: command.Fence{BrokerID: p.Leader, BrokerEpoch: w.meta.Epochs[p.Leader], LeaderEpoch: p.LeaderEpoch}})
			require.NoError(t, err)
		}
		w.meta.Elect(partition(1), 2)
		begin(partition(0), 1)
		begin(partition(1), 2)
		begin(partition(2), 3)
		s := w.sweeper(t, nil, 1, "us")
		p, err := s.Pass(t.Context())
		require.NoError(t, err)
		require.Zero(t, p.Abandoned, "all are under way")
		w.meta.Elect(partition(0), 2) // deposed
		w.meta.Register(2)            // restarted
		p, err = s.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, p.Abandoned)
		require.Equal(t, metadata.ObjectCopying, w.meta.Known[uuid.UUID{15: 3}].State)
	})
}

// A deleted topic's objects go, and then its tombstone.
func TestTopicTombstone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.copied(t, partition(0), 0, 10, 1)
		w.copied(t, partition(2), 0, 10, 2)
		w.meta.DeleteTopic(topic, 3)
		s := w.sweeper(t, nil, 1, "us")
		p, err := s.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, p.Started)
		require.Zero(t, p.Purged)
		time.Sleep(grace)
		_, err = s.Pass(t.Context())
		require.NoError(t, err)
		p, err = s.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, p.Purged)
		w.requireClean(t, quiet)
	})
}

// Orphans go when they are old by the store's clock. What is not ours stays:
// other clusters' objects, keys of another form.
func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		known := w.copied(t, partition(0), 0, 10, 1)
		orphan := w.lay.Object(uuid.UUID{15: 77})
		others := []string{"p/other/data/4d/" + uuid.UUID{15: 77}.String(), w.lay.DataPrefix() + "readme", "p/cluster/backup", "p/cluster/data2/x"}
		for _, key := range append(others, orphan) {
			storetest.Put(t, w.bucket, key, []byte("x"))
		}
		s := w.sweeper(t, nil, 1, "us")
		p, err := s.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, reclaim.Pass{OrphansListed: 3, Foreign: 1}, p)
		time.Sleep(orphanAge)
		p, err = s.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, p.Orphans)
		_, err = w.bucket.Head(t.Context(), orphan)
		require.ErrorIs(t, err, objstore.ErrNotExist)
		for _, key := range append(others, w.lay.Object(known)) {
			_, err = w.bucket.Head(t.Context(), key)
			require.NoError(t, err, key)
		}
	})
}

// laterMetadata commits an intent between the listing and the read barrier: an
// object that was listed must not be taken for an orphan.
type laterMetadata struct {
	reclaim.Metadata
	atBarrier func()
}

func (m laterMetadata) ReadBarrier(ctx context.Context) error {
	m.atBarrier()
	return m.Metadata.ReadBarrier(ctx)
}

func TestBarrierBeforeOrphansAreJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		id := uuid.UUID{15: 5}
		storetest.Put(t, w.bucket, w.lay.Object(id), []byte("x"))
		time.Sleep(2 * orphanAge)
		owner, err := reclaim.NewOwner(w.store, w.lay, 1, "us")
		require.NoError(t, err)
		s, err := reclaim.NewSweeper(reclaim.SweepOptions{
			Metadata: laterMetadata{w.meta, func() { w.meta.Known[id] = &metadata.Object{ID: id, State: metadata.ObjectFinished} }},
			Stores:   map[string]objstore.Store{"warm": w.store}, Layout: w.lay, Owner: owner, OrphanAge: orphanAge,
			Grace: grace, Self: func() (int32, int64) { return 1, w.meta.Epochs[1] },
		})
		require.NoError(t, err)
		p, err := s.Pass(t.Context())
		require.NoError(t, err)
		require.Zero(t, p.Orphans)
		_, err = w.bucket.Head(t.Context(), w.lay.Object(id))
		require.NoError(t, err)
	})
}

// A recovered cluster takes the bucket; its undead ancestor deletes nothing
// more, and neither does a second recovery of the same generation.
func TestOwnership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.copied(t, partition(0), 0, 10, 1)
		w.logStart(partition(0), 10)
		ancestor := w.sweeper(t, nil, 1, "first")
		_, err := ancestor.Pass(t.Context())
		require.NoError(t, err)
		time.Sleep(grace)
		recovered := w.sweeper(t, nil, 2, "recovered")
		_, err = recovered.Pass(t.Context())
		require.NoError(t, err)
		p, err := ancestor.Pass(t.Context())
		require.ErrorIs(t, err, reclaim.ErrNotOwner)
		require.Zero(t, p.Deleted)
		twin := w.sweeper(t, nil, 2, "twin")
		_, err = twin.Pass(t.Context())
		require.ErrorIs(t, err, reclaim.ErrNotOwner)
		require.ErrorContains(t, err, "claimed by recovered")
		time.Sleep(grace)
		p, err = recovered.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, p.Deleted)
	})
}

// Without an answer about the claim nothing is deleted.
func TestNoAnswerNoDeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.copied(t, partition(0), 0, 10, 1)
		w.logStart(partition(0), 10)
		s := w.sweeper(t, nil, 1, "us")
		_, err := s.Pass(t.Context())
		require.NoError(t, err)
		time.Sleep(grace)
		w.store.SetPlan(func(c faulty.Call) faulty.Fault {
			if c.Op == "list" {
				return faulty.Fault{Kind: faulty.Unavailable}
			}
			return faulty.Fault{}
		})
		p, err := s.Pass(t.Context())
		require.ErrorIs(t, err, objstore.ErrTransient)
		require.Zero(t, p.Deleted)
	})
}

// A broken or foreign claim object stops deletion with a clear message.
func TestDamagedClaim(t *testing.T) {
	for content, hint := range map[string]string{
		"garbage": "no claim", `{"version":2,"generation":1,"claim":"us"}`: "version 2",
		`{"version":1,"generation":1,"claim":"us","x":1}`: "no claim", strings.Repeat(" ", 5000): "5000 bytes",
	} {
		w := newWorld(t)
		_, err := w.bucket.Put(t.Context(), w.lay.Owner(1), bytes.NewReader([]byte(content)), int64(len(content)), objstore.PutOptions{})
		require.NoError(t, err)
		_, err = w.sweeper(t, nil, 1, "us").Pass(t.Context())
		require.ErrorContains(t, err, hint)
	}
}

// The claim's form is fixed; a change of it shows here.
func TestClaimGolden(t *testing.T) {
	w := newWorld(t)
	_, err := w.sweeper(t, nil, 3, "q-Fn0XJmTHeZ1cZ_yNe4gA").Pass(t.Context())
	require.NoError(t, err)
	golden, err := os.ReadFile("testdata/owner-v1.json")
	require.NoError(t, err)
	got, err := storetest.Get(t.Context(), w.bucket, w.lay.Owner(3), 0, int64(len(golden)))
	require.NoError(t, err)
	require.Equal(t, string(golden), string(got))
}

// The process dies after each call in turn, and another goes on: nothing is
// lost on the way, and in the end the bucket is clean.
func TestCrashAtEveryStep(t *testing.T) {
	for calls := 0; ; calls++ {
		finished := false
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			for i := range byte(3) {
				w.copied(t, partition(0), record.Offset(i)*10, record.Offset(i)*10+10, i+1)
			}
			w.copied(t, partition(1), 0, 10, 10)
			storetest.Put(t, w.bucket, w.lay.Object(uuid.UUID{15: 99}), []byte("orphan"))
			_, err := w.meta.Propose(t.Context(), &command.CopyStarted{Partition: partition(2), Object: uuid.UUID{15: 50}, Store: "warm", End: 10,
				Fence: command.Fence{BrokerID: 1, BrokerEpoch: w.meta.Epochs[1]}})
			require.NoError(t, err)
			w.meta.Register(1) // dead since
			w.logStart(partition(0), 20)
			f := &fuse{left: calls}
			s := w.sweeper(t, f, 1, "us")
			for range 4 {
				_, err = s.Pass(t.Context())
				w.requireSound(t, quiet)
				time.Sleep(orphanAge)
			}
			finished = err == nil && f.left > 0
			s = w.sweeper(t, nil, 1, "us")
			for range 4 {
				_, err := s.Pass(t.Context())
				require.NoError(t, err, "after a crash at call %d", calls)
				w.requireSound(t, quiet)
				time.Sleep(orphanAge)
			}
			w.requireClean(t, quiet)
		})
		if finished {
			require.Greater(t, calls, 8)
			return
		}
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.copied(t, partition(0), 0, 10, 1)
		w.logStart(partition(0), 10)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		s := w.sweeper(t, nil, 1, "us")
		go func() { s.Run(ctx); close(done) }()
		time.Sleep(2 * grace)
		cancel()
		<-done
		w.requireClean(t, quiet)
	})
}
