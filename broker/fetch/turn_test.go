package fetch

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/remote"
)

// bucket has one batch, of a size that is given only as the first of an answer.
type bucket struct{ size int64 }

func (b bucket) Read(_ context.Context, r remote.Request) (*remote.Result, error) {
	if b.size > r.MaxBytes && !r.AtLeastOne {
		return &remote.Result{Next: r.From}, nil
	}
	return &remote.Result{Bytes: b.size, Next: r.From + 1}, nil
}

func (bucket) Hint(remote.Request) {}

type appended chan error

func (appended) AppendWritten(*partition.Append)  {}
func (c appended) AppendDone(a *partition.Append) { c <- a.Err }

// TestThoseOnDiskLeaveTheBucketItsTurn: partitions on disk are read first. While
// there was always more of them, a partition whose records are in the bucket got
// what was left, which was nothing, or too little for its next batch: a session
// under load did not move it for as long as the load lasted.
func TestThoseOnDiskLeaveTheBucketItsTurn(t *testing.T) {
	fs := vfs.NewMem()
	dir, err := commitlog.OpenDir(fs, "data", commitlog.DirOptions{BootID: "boot"})
	require.NoError(t, err)
	set := partition.NewSet(partition.SetOptions{NodeID: 1, FS: fs, Dir: dir, FlushWorkers: 1, MaxFiles: 16, LagMax: time.Second,
		OnFatal: func(err error) { t.Errorf("fatal: %v", err) }, Logger: slog.New(slog.DiscardHandler)})
	defer func() {
		require.NoError(t, set.Close(true))
		require.NoError(t, dir.Close(true))
	}()
	id := record.NewTopicID()
	cold, hot := record.TopicPartition{Topic: id}, record.TopicPartition{Topic: id, Partition: 1}
	img := metadata.Empty()
	place := func(tp record.TopicPartition, remoteEnd record.Offset) {
		edit := img.Edit()
		edit.PutTopic(&metadata.Topic{ID: id, Name: "t", Partitions: 2})
		edit.PutPartition(tp, &metadata.Partition{Replicas: []int32{1}, ISR: []int32{1}, Leader: 1, RemoteEnd: remoteEnd, RemoteEpoch: -1, LastKnownLeader: -1})
		next, delta := edit.Commit(img.Index() + 1)
		set.Apply(img, next, delta)
		img = next
	}
	place(cold, 0)
	place(hot, 0)
	for _, tp := range []record.TopicPartition{cold, hot} {
		for range 3 {
			b := record.NewBuilder(record.BuilderOptions{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1})
			b.Append(1, nil, make([]byte, 1000))
			done := make(appended, 1)
			set.Get(tp).Append(&partition.Append{Raw: b.Build(), AcksAll: true, LeaderEpoch: -1, Owner: done})
			require.NoError(t, <-done)
			_, err := set.Get(tp).Log().Roll()
			require.NoError(t, err)
		}
	}
	place(cold, 1)
	_, err = set.Get(cold).Trim(1)
	require.NoError(t, err)
	require.EqualValues(t, 1, set.Get(cold).State().LocalStart)

	fetch := func(wants []Want, maxBytes int64) []Got {
		s := New(Options{Partitions: set, Remote: bucket{size: 500}, Logger: slog.New(slog.DiscardHandler), MaxBytes: 1 << 20,
			ColdFetches: 1, RemoteWait: time.Minute})
		defer s.Close()
		out := make(chan []Got, 1)
		s.Fetch(&Request{Ctx: t.Context(), Wants: wants, MinBytes: 1, MaxBytes: maxBytes, Done: func(got []Got) { out <- got }})
		return <-out
	}
	want := func(tp record.TopicPartition, from record.Offset, maxBytes int) Want {
		return Want{TP: tp, Read: partition.Read{From: from, Current: -1, LastFetched: -1, MaxBytes: maxBytes}}
	}
	for name, c := range map[string]struct {
		maxBytes      int64
		each          int
		turn, notTurn int64 // bytes from the bucket
	}{
		"answers are full":     {maxBytes: 1100, each: 2000, turn: 500},
		"its batch is large":   {maxBytes: 1 << 20, each: 10, turn: 500},
		"there is room enough": {maxBytes: 1 << 20, each: 1 << 19, turn: 500, notTurn: 500},
	} {
		t.Run(name, func(t *testing.T) {
			got := fetch([]Want{want(cold, 0, c.each), want(hot, 0, c.each)}, c.maxBytes)
			require.Equal(t, c.turn, got[0].Bytes())
			require.Positive(t, got[1].Bytes(), "those on disk wait for nobody")
			release(got)
			got = fetch([]Want{want(hot, 0, c.each), want(cold, 0, c.each)}, c.maxBytes)
			require.Equal(t, c.notTurn, got[1].Bytes(), "behind others, it takes what is left")
			release(got)
		})
	}
}
