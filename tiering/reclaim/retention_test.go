package reclaim_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/faulty"
	"github.com/firnlog/firn/tiering/objstore/storetest"
	"github.com/firnlog/firn/tiering/reclaim"
)

// logs are local logs of ten-record segments, each sealed at its time.
type logs struct {
	w        *world
	replicas map[record.TopicPartition]*reclaim.Replica
	trimmed  map[record.TopicPartition]record.Offset
	rolled   []record.TopicPartition
	broken   record.TopicPartition
}

func (l *logs) Replicas() []reclaim.Replica {
	var all []reclaim.Replica
	for i := range 3 {
		if r := l.replicas[partition(i)]; r != nil {
			c := *r
			c.State.LogStart = l.w.meta.Parts[c.Partition].Manifest.LogStart()
			c.State.RemoteEnd = l.w.meta.Parts[c.Partition].Manifest.RemoteEnd()
			all = append(all, c)
		}
	}
	return all
}

func (l *logs) Trim(tp record.TopicPartition, upTo record.Offset) (int64, error) {
	if tp == l.broken {
		return 0, errors.New("disk on fire")
	}
	l.trimmed[tp] = upTo
	var freed int64
	r := l.replicas[tp]
	for len(r.State.Local) > 0 && r.State.Local[0].End <= upTo {
		freed += r.State.Local[0].Bytes
		r.State.Local = r.State.Local[1:]
	}
	return freed, nil
}

func (l *logs) Roll(tp record.TopicPartition) error {
	l.rolled = append(l.rolled, tp)
	local := l.replicas[tp].State.Local
	local[len(local)-1].Sealed = true
	return nil
}

func newLogs(w *world) *logs {
	l := &logs{w: w, replicas: map[record.TopicPartition]*reclaim.Replica{}, trimmed: map[record.TopicPartition]record.Offset{}}
	for i := range 3 {
		r := &reclaim.Replica{Partition: partition(i), Leader: true, LeaderEpoch: w.meta.Parts[partition(i)].LeaderEpoch,
			Policy: reclaim.Policy{Delete: true, TotalMs: 3600_000, TotalBytes: -1, Tiered: true, LocalMs: 60_000, LocalBytes: -1}}
		r.State.ClockTrusted, r.State.Stable = true, 30
		for j := range 3 {
			r.State.Local = append(r.State.Local, reclaim.Segment{Base: record.Offset(10 * j), End: record.Offset(10*j + 10), Bytes: 100,
				MaxTimestamp: time.Now().UnixMilli(), Sealed: j < 2})
		}
		l.replicas[partition(i)] = r
	}
	return l
}

func (l *logs) retention(t *testing.T) *reclaim.Retention {
	r, err := reclaim.NewRetention(reclaim.RetentionOptions{
		Logs: l, Entries: l.w.meta, Metadata: l.w.meta, Self: func() (int32, int64) { return 1, l.w.meta.Epochs[1] },
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(t, err)
	return r
}

func (l *logs) end(n int) record.Offset { return l.w.meta.Parts[partition(n)].Manifest.LogStart() }

// Local data goes once it is copied and beyond its bounds; everything goes
// once it is beyond the total; a partition that fails holds up no other.
func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		l := newLogs(w)
		r := l.retention(t)
		w.copied(t, partition(0), 0, 10, 1)
		w.copied(t, partition(1), 0, 20, 2)
		l.broken = partition(1)
		p, err := r.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, reclaim.RetentionPass{}, p)
		time.Sleep(2 * time.Minute)
		p, err = r.Pass(t.Context())
		require.ErrorContains(t, err, "disk on fire")
		require.EqualValues(t, 100, p.Freed)
		require.Equal(t, map[record.TopicPartition]record.Offset{partition(0): 10}, l.trimmed)
		time.Sleep(time.Hour)
		l.broken = record.TopicPartition{}
		p, err = r.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, 3, p.Advanced)
		require.Equal(t, 3, p.Rolled)
		for i := range 3 {
			require.EqualValues(t, 20, l.end(i), "all but the active segment, which is sealed now")
		}
	})
}

// A deposed leader's decision is refused, and it trims nothing by it.
func TestRetentionOfDeposedLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		l := newLogs(w)
		r := l.retention(t)
		w.meta.Elect(partition(0), 2)
		delete(l.replicas, partition(1))
		l.replicas[partition(2)].Leader = false
		time.Sleep(2 * time.Hour)
		p, err := r.Pass(t.Context())
		require.NoError(t, err)
		require.Zero(t, p)
		require.Empty(t, l.trimmed)
		w.logStart(partition(2), 15) // the leader's
		_, err = r.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[record.TopicPartition]record.Offset{partition(2): 10}, l.trimmed)
	})
}

func TestRetentionRunAndExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		l := newLogs(w)
		w.copied(t, partition(0), 0, 10, 1)
		r := l.retention(t)
		reasons, err := r.Explain(t.Context(), l.Replicas()[0])
		require.NoError(t, err)
		require.Len(t, reasons, 4)
		require.Equal(t, reclaim.NotCopied, reasons[2].Code)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.Run(ctx); close(done) }()
		time.Sleep(10 * time.Minute)
		cancel()
		<-done
		require.EqualValues(t, 10, l.trimmed[partition(0)])
	})
}

// Check finds what is gone, what is damaged and what dangles; and no more.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	for i := range byte(4) {
		w.copied(t, partition(0), record.Offset(i)*10, record.Offset(i)*10+10, i+1)
	}
	w.copied(t, partition(1), 0, 10, 9)
	o := reclaim.CheckOptions{Metadata: w.meta, Stores: map[string]objstore.Store{"warm": w.store}, Layout: w.lay, Concurrency: 1}
	seen := 0
	o.Progress = func(objects int, bytes int64) { seen = objects }
	report, err := reclaim.Check(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, 5, report.Objects)
	require.Equal(t, 5, seen)
	require.Positive(t, report.Bytes)
	require.Empty(t, report.Findings)

	require.NoError(t, errors.Join(w.bucket.Delete(t.Context(), w.lay.Object(uuid.UUID{15: 1}))...))
	storetest.Put(t, w.bucket, w.lay.Object(uuid.UUID{15: 2}), body(partition(0), 10, 21))
	w.meta.Known[uuid.UUID{15: 9}].State = metadata.ObjectCopying
	report, err = reclaim.Check(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, report.Findings, 3)
	require.ErrorIs(t, report.Findings[0].Err, objstore.ErrNotExist)
	require.ErrorIs(t, report.Findings[1].Err, objstore.ErrChecksum)
	require.ErrorIs(t, report.Findings[2].Err, reclaim.ErrDangling)
	require.Equal(t, partition(1), report.Findings[2].Partition)

	o.Partitions = []record.TopicPartition{partition(2)}
	report, err = reclaim.Check(t.Context(), o)
	require.NoError(t, err)
	require.Zero(t, report.Objects)

	// Bits flipped on the way: only a deep check reads them.
	o.Partitions, o.Deep = []record.TopicPartition{partition(0)}, true
	w.store.SetPlan(func(c faulty.Call) faulty.Fault {
		if c.Key == w.lay.Object(uuid.UUID{15: 4}) && c.Op == "get" {
			return faulty.Fault{Kind: faulty.Flip, At: 3}
		}
		return faulty.Fault{}
	})
	report, err = reclaim.Check(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, report.Findings, 3)
	require.ErrorIs(t, report.Findings[2].Err, objstore.ErrChecksum)
}

// What retention deletes under a check is no finding.
func TestCheckWhileDeleting(t *testing.T) {
	w := newWorld(t)
	id := w.copied(t, partition(0), 0, 10, 1)
	require.NoError(t, errors.Join(w.bucket.Delete(t.Context(), w.lay.Object(id))...))
	meta := laterMetadata{w.meta, func() { w.logStart(partition(0), 10) }}
	report, err := reclaim.Check(t.Context(), reclaim.CheckOptions{Metadata: meta, Stores: map[string]objstore.Store{"warm": w.store}, Layout: w.lay})
	require.NoError(t, err)
	require.Empty(t, report.Findings)
}

// What the clock says counts only while it is trusted, at the moment of each decision.
func TestRetentionByAnUntrustedClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		l := newLogs(w)
		trusted := false
		r, err := reclaim.NewRetention(reclaim.RetentionOptions{
			Logs: l, Entries: l.w.meta, Metadata: l.w.meta, Self: func() (int32, int64) { return 1, l.w.meta.Epochs[1] },
			Trusted: func(now time.Time) bool { return trusted && now.Equal(time.Now()) },
		})
		require.NoError(t, err)
		w.copied(t, partition(0), 0, 20, 2)
		time.Sleep(2 * time.Hour)
		p, err := r.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, reclaim.RetentionPass{}, p)
		trusted = true
		p, err = r.Pass(t.Context())
		require.NoError(t, err)
		require.Equal(t, 3, p.Advanced)
	})
}
