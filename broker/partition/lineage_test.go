package partition

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// bucketState is what a bucket tells of the end of its history.
type bucketState struct {
	end       record.Offset
	epochs    []manifest.EpochStart
	producers []byte
}

func (s bucketState) ask(context.Context, record.TopicPartition) (record.Offset, []manifest.EpochStart, []byte, error) {
	return s.end, s.epochs, s.producers, nil
}

// reopen starts the broker again under an image and a bucket.
func (b *bench) reopen(state RemoteState) {
	b.open()
	b.set.opts.LastRemoteState = state
	b.set.Apply(metadata.Empty(), b.img, b.img.Everything())
}

// change edits the image without applying it.
func (b *bench) change(p *metadata.Partition) {
	e := b.img.Edit()
	e.PutPartition(b.tp, p)
	b.img, _ = e.Commit(b.img.Index() + 1)
}

// leading waits until the partition leads.
func (b *bench) leading() *Partition {
	b.t.Helper()
	require.Eventually(b.t, func() bool { role, _, _ := b.part().role(); return role == replica.Leader }, 10*time.Second, time.Millisecond)
	return b.part()
}

// A topic with durability=replicated was copied to the bucket as far as 10 when
// the power failed; of the local log 5 records had reached the disk. The log went
// on at 5: new records, acknowledged, got offsets at which the bucket had others,
// and were hidden by them as soon as the local segments went. The same happened
// behind a log start that DeleteRecords had raised above what survived, and to a
// log that was long enough but another leader's.
func TestALogThatIsNotTheBucketsBeginsAnewThere(t *testing.T) {
	remote := []manifest.EpochStart{{Epoch: 0, Start: 0}, {Epoch: 1, Start: 7}}
	for name, c := range map[string]struct {
		wiped       bool // the disk was replaced
		written     int
		remoteEnd   record.Offset
		remoteEpoch record.Epoch
		logStart    record.Offset
		want        record.Offset
		fromBucket  bool
	}{
		"tail lost":            {written: 5, remoteEnd: 10, remoteEpoch: 1, want: 10, fromBucket: true},
		"disk replaced":        {wiped: true, remoteEnd: 10, remoteEpoch: 1, want: 10, fromBucket: true},
		"another lineage":      {written: 20, remoteEnd: 10, remoteEpoch: 1, want: 10, fromBucket: true},
		"log start above":      {written: 5, remoteEpoch: -1, logStart: 8, want: 8},
		"log start above both": {written: 5, remoteEnd: 10, remoteEpoch: 1, logStart: 12, want: 12},
		"nothing lost":         {written: 5, remoteEnd: 5, remoteEpoch: 0, want: 5},
		"nothing remote":       {written: 5, remoteEpoch: -1, want: 5},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, map[string]string{"durability": "replicated", "remote.storage.enable": "true"})
			if !c.wiped {
				b.append(batch(c.written, plain()), true)
			}
			b.shut()
			if c.wiped {
				require.NoError(t, b.fs.RemoveAll("data"))
			}
			p := led(1, 2)
			p.RemoteEnd, p.RemoteEpoch, p.LogStart = c.remoteEnd, c.remoteEpoch, c.logStart
			b.change(p)
			bucket := bucketState{end: c.remoteEnd, epochs: remote}.ask
			b.reopen(bucket)
			st := b.leading().State()
			require.Equal(t, c.want, st.LogEnd)
			require.Equal(t, c.want, st.HighWatermark)
			a := b.append(batch(2, plain()), true)
			require.NoError(t, a.Err)
			require.Equal(t, c.want, a.Base)
			if c.fromBucket {
				_, end := b.part().Log().EpochEnd(0)
				require.EqualValues(t, 7, end, "the bucket knows where epoch 0 ended")
				res, err := read(b.part(), 4)
				require.NoError(t, err)
				require.True(t, res.Remote)
			}
			// It stays so over another restart.
			b.shut()
			b.reopen(bucket)
			require.Equal(t, c.want+2, b.leading().State().LogEnd)
		})
	}
}

// The answer to a batch was lost, and with the power the log that held it; the
// bucket has the batch. Its retry landed a second time, since the log that began
// anew at the bucket's end knew no producers.
func TestARetryOfABatchInTheBucketIsADuplicate(t *testing.T) {
	b := newBench(t, map[string]string{"durability": "replicated", "remote.storage.enable": "true"})
	idempotent := record.BuilderOptions{ProducerID: 7, ProducerEpoch: 0, BaseSequence: 0}
	first := b.append(batch(3, idempotent), true)
	require.NoError(t, first.Err)
	producers, err := b.part().Log().ProducerSnapshotAt(3)
	require.NoError(t, err)
	b.shut()
	require.NoError(t, b.fs.RemoveAll("data"))
	p := led(1, 1)
	p.RemoteEnd, p.RemoteEpoch = 3, 0
	b.change(p)
	b.reopen(bucketState{end: 3, epochs: []manifest.EpochStart{{Epoch: 0, Start: 0}}, producers: producers}.ask)
	b.leading()
	again := b.append(batch(3, idempotent), true)
	require.NoError(t, again.Err)
	require.Equal(t, first.Base, again.Base)
	require.EqualValues(t, 3, b.part().State().LogEnd)
	idempotent.BaseSequence = 9
	require.ErrorIs(t, b.append(batch(1, idempotent), true).Err, kerr.OutOfOrderSequenceNumber)
}

// The bucket is down while a log must begin at its end: that partition is offline
// and says so, the others are served, and when the bucket is back it is too.
func TestADownBucketKeepsOnlyThePartitionsOfflineThatNeedIt(t *testing.T) {
	b := newBench(t, map[string]string{"durability": "replicated", "remote.storage.enable": "true"})
	b.append(batch(2, plain()), true)
	other := record.TopicPartition{Topic: b.topic, Partition: 1}
	b.edit(func(e *metadata.Editor) {
		e.PutTopic(&metadata.Topic{ID: b.topic, Name: "t", Partitions: 2})
		e.PutPartition(other, led(1, 0))
	})
	b.shut()
	p := led(1, 1)
	p.RemoteEnd, p.RemoteEpoch = 10, 0
	b.change(p)
	b.mu.Lock()
	b.roles = nil
	b.mu.Unlock()

	down := errors.New("the bucket is down")
	asked, up := make(chan struct{}), make(chan struct{})
	first := true
	b.reopen(func(ctx context.Context, tp record.TopicPartition) (record.Offset, []manifest.EpochStart, []byte, error) {
		require.Equal(t, b.tp, tp)
		if first {
			first = false
			close(asked)
			<-up
			return 0, nil, nil, down
		}
		return 10, []manifest.EpochStart{{Epoch: 0, Start: 0}}, nil, nil
	})
	<-asked
	require.EqualValues(t, 0, b.set.Get(other).State().LogEnd)
	require.NoError(t, b.set.Get(other).CheckLeader(-1))
	require.ErrorIs(t, b.append(batch(1, plain()), true).Err, kerr.KafkaStorageError)
	_, err := read(b.part(), 0)
	require.ErrorIs(t, err, kerr.KafkaStorageError)
	b.mu.Lock()
	require.Equal(t, []string{"t true 0"}, b.roles, "of the other; a leader that cannot lead is not told of")
	b.mu.Unlock()
	close(up)
	require.Eventually(t, func() bool { return errors.Is(b.set.Failed()[b.tp], down) }, 10*time.Second, time.Millisecond)
	require.Len(t, b.set.Failed(), 1)

	b.set.restorer.retry(time.Now().Add(time.Hour))
	require.EqualValues(t, 10, b.leading().State().LogEnd)
	require.Empty(t, b.set.Failed())
	require.Eventually(t, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.roles) == 2 && b.roles[1] == "t true 1"
	}, 10*time.Second, time.Millisecond)
}
