package fsm

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// begin registers broker 1 and returns the next index.
func begin(t testing.TB, f *FSM) (epoch int64, next uint64) {
	t.Helper()
	out := f.ApplyBatch([]Entry{
		encode(t, 1, &command.RegisterBroker{BrokerID: 1, DirectoryID: uuid.New(), Incarnation: uuid.New()}),
		encode(t, 2, &command.SetBrokerState{BrokerID: 1, BrokerEpoch: 1, State: command.BrokerActive}),
	})
	for _, o := range out {
		require.NoError(t, o.Err)
	}
	return 1, 3
}

func newTopic(name string, partitions int) command.NewTopic {
	n := command.NewTopic{ID: record.NewTopicID(), Name: name, Assignments: make([][]int32, partitions)}
	for i := range n.Assignments {
		n.Assignments[i] = []int32{1}
	}
	return n
}

func TestUnknownVersionStops(t *testing.T) {
	fs := vfs.NewMem()
	var fatal []error
	f, err := Open(Options{FS: fs, Dir: "state", OnFatal: func(err error) { fatal = append(fatal, err) }})
	require.NoError(t, err)
	_, next := begin(t, f)
	good := encode(t, next, &command.FormatCluster{ClusterID: "c"})
	for _, data := range [][]byte{{command.Version + 1}, {command.Version}} { // a newer version, an unknown kind
		fatal = nil
		out := f.ApplyBatch([]Entry{good, {Index: next + 1, Data: data}})
		require.ErrorIs(t, out[0].Err, command.ErrUnknownVersion)
		require.ErrorIs(t, out[1].Err, command.ErrUnknownVersion)
		require.Len(t, fatal, 1)
		require.ErrorContains(t, fatal[0], "newer version of firn")
		require.Equal(t, next-1, f.Applied(), "a failed batch applied something")
		out = f.ApplyBatch([]Entry{good})
		require.ErrorIs(t, out[0].Err, command.ErrUnknownVersion, "went on after a failure")
		require.NoError(t, f.Close())
		f, err = Open(Options{FS: fs, Dir: "state", OnFatal: func(err error) { fatal = append(fatal, err) }})
		require.NoError(t, err)
	}
	out := f.ApplyBatch([]Entry{good})
	require.NoError(t, out[0].Err)
	require.NoError(t, f.db.Set([]byte(keyFormat), putUint(formatVersion+1), pebble.Sync))
	require.NoError(t, f.Close())
	_, err = Open(Options{FS: fs, Dir: "state"})
	require.ErrorIs(t, err, command.ErrUnknownVersion)
}

func TestRequestsAreRememberedWithinBounds(t *testing.T) {
	fs := vfs.NewMem()
	f := openFSM(t, fs, nil)
	epoch, next := begin(t, f)
	alloc := func(id uuid.UUID) Outcome {
		o := f.ApplyBatch([]Entry{encode(t, next, &command.AllocateProducerIDs{Request: command.Request{RequestID: id}, BrokerID: 1, BrokerEpoch: epoch})})[0]
		next++
		require.NoError(t, o.Err)
		return o
	}
	first := uuid.New()
	original := alloc(first)
	for range requestsKept - 1 {
		alloc(uuid.New())
	}
	require.NoError(t, f.Close())
	f = openFSM(t, fs, nil)
	require.Equal(t, original, alloc(first), "the last request in the table was forgotten")
	alloc(uuid.New())
	require.Len(t, f.requests.order, requestsKept)
	require.NotEqual(t, original, alloc(first), "the table has no bound")
	require.NoError(t, f.Close())
}

// TestRestoreCutShort: the power goes while a snapshot replaces the state. The
// next start must not take the mixture for a state.
func TestRestoreCutShort(t *testing.T) {
	f := openFSM(t, vfs.NewMem(), nil)
	_, next := begin(t, f)
	f.ApplyBatch([]Entry{encode(t, next, &command.CreateTopics{Topics: []command.NewTopic{newTopic("a", 5000)}})})
	snap, err := f.Snapshot()
	require.NoError(t, err)
	var stream bytes.Buffer
	_, err = snap.WriteTo(&stream)
	require.NoError(t, err)
	require.NoError(t, snap.Release())
	want, err := f.Hash()
	require.NoError(t, err)
	require.NoError(t, f.Close())

	fs := vfs.NewMem()
	var failed error
	f, err = Open(Options{FS: fs, Dir: "state", OnFatal: func(err error) { failed = err }})
	require.NoError(t, err)
	begin(t, f)
	require.ErrorIs(t, f.Restore(bytes.NewReader(stream.Bytes()[:stream.Len()-30])), command.ErrCorrupt)
	require.Error(t, failed)
	require.ErrorIs(t, f.Failed(), command.ErrCorrupt)
	require.NoError(t, f.Close())

	f = openFSM(t, fs, nil)
	require.Zero(t, f.Applied())
	require.Zero(t, f.Image().TopicCount())
	require.Nil(t, f.Image().Broker(1))
	var delta metadata.Delta
	f.opts.OnApplied = func(_ *metadata.Image, d metadata.Delta) { delta = d }
	require.NoError(t, f.Restore(&stream))
	require.Len(t, delta.Partitions, 5000)
	got, err := f.Hash()
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, f.Close())
}

// TestTenThousandPartitions holds the price of a change among ten thousand
// partitions below a millisecond, and logs it.
func TestTenThousandPartitions(t *testing.T) {
	fs := vfs.NewMem()
	f := openFSM(t, fs, nil)
	epoch, next := begin(t, f)
	topic := newTopic("wide", 10_000)
	start := time.Now()
	out := f.ApplyBatch([]Entry{encode(t, next, &command.CreateTopics{Topics: []command.NewTopic{topic}})})
	require.NoError(t, out[0].Result.Items[0].Err)
	t.Logf("create a topic of 10000 partitions: %v", time.Since(start))
	const changes = 500
	entries := make([]Entry, changes)
	for i := range entries {
		tp := record.TopicPartition{Topic: topic.ID, Partition: int32(i * 17 % 10_000)}
		entries[i] = encode(t, next+1+uint64(i), &command.AdvanceLogStart{BrokerID: 1, BrokerEpoch: epoch,
			Partitions: []command.LogStartChange{{Partition: tp, LogStart: 5}}})
	}
	start = time.Now()
	for _, e := range entries {
		o := f.ApplyBatch([]Entry{e})[0]
		require.NoError(t, o.Result.Items[0].Err)
	}
	each := time.Since(start) / changes
	t.Logf("one partition's change: %v", each)
	require.Less(t, each, 5*time.Millisecond, "a change copies the whole topic")
	require.NoError(t, f.Close())
	start = time.Now()
	f = openFSM(t, fs, nil)
	t.Logf("open with 10000 partitions: %v", time.Since(start))
	require.Equal(t, 10_000, f.Image().PartitionCount())
	require.NoError(t, f.Close())
}

func TestTopicNames(t *testing.T) {
	for name, ok := range map[string]bool{"a": true, "A.b_c-9": true, "": false, ".": false, "..": false, "...": true,
		"a b": false, "ä": false, "a/b": false, "a@b": false, fmt.Sprintf("%0249d", 1): true, fmt.Sprintf("%0250d", 1): false} {
		err := checkTopicName(name)
		if ok {
			require.NoError(t, err, name)
		} else {
			require.ErrorIs(t, err, command.ErrInvalidName, name)
		}
	}
}

func TestFencedFamily(t *testing.T) {
	for _, kind := range []*command.Error{command.ErrStaleBrokerEpoch, command.ErrStaleLeaderEpoch, command.ErrStalePartitionEpoch, command.ErrNotLeader} {
		require.ErrorIs(t, refuse(kind, "x"), command.ErrFenced)
		require.ErrorIs(t, refuse(kind, "x"), kind)
	}
	require.NotErrorIs(t, refuse(command.ErrRange, "x"), command.ErrFenced)
}
