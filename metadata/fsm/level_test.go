package fsm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm/statepb"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

func level(l command.Level) map[string]int16 { return map[string]int16{command.Feature: int16(l)} }

func raise(l command.Level, downgrade bool) *command.UpdateFeatures {
	return &command.UpdateFeatures{Updates: []command.FeatureUpdate{{Name: command.Feature, Level: int16(l), Downgrade: downgrade}}}
}

// TestLevelIsRaisedWhenAllKnowIt: while a registered broker does not, fenced or not,
// it is refused, and then it does not go down.
func TestLevelIsRaisedWhenAllKnowIt(t *testing.T) {
	s := newStory(t, 2, nil, 1, 2)
	require.Equal(t, command.Level1, s.f.Image().Level(), "a cluster that never heard of it")
	knows := func(id int32, to command.Level) {
		s.register(id, func(c *command.RegisterBroker) {
			c.Features = map[string]metadata.VersionRange{command.Feature: {Min: 1, Max: int16(to)}}
		})
	}
	knows(1, command.Level2)
	_, err := s.apply(raise(command.Level2, false))
	require.ErrorIs(t, err, command.ErrFeature)
	require.ErrorContains(t, err, "broker 2")
	knows(2, command.Level1)
	s.must(raise(command.Level1, false))
	require.Equal(t, command.Level1, s.f.Image().Level())
	_, err = s.apply(raise(command.Level2, false))
	require.ErrorIs(t, err, command.ErrFeature)
	knows(2, command.Level2)
	s.must(raise(command.Level2, false))
	require.Equal(t, command.Level2, s.f.Image().Level())
	for _, to := range []command.Level{0, command.Level1} {
		_, err = s.apply(raise(to, true))
		require.ErrorIs(t, err, command.ErrFeature, "level %d", to)
	}
	_, err = s.apply(&command.RegisterBroker{BrokerID: 2, DirectoryID: s.dirs[2], Incarnation: uuid.New(),
		Features: map[string]metadata.VersionRange{command.Feature: {Min: 1, Max: 1}}})
	require.ErrorIs(t, err, command.ErrFeature, "an old program came back")
	require.Equal(t, command.Level2, s.f.Image().Level())
}

// TestAnOldProgramStops at a level that it does not know: where the level rises,
// where the log begins with it, and where its own state has it already.
func TestAnOldProgramStops(t *testing.T) {
	tooNew := command.MaxLevel + 1
	for name, cmd := range map[string]command.Command{
		"raised":    raise(tooNew, false),
		"formatted": &command.FormatCluster{ClusterID: "c", Features: level(tooNew)},
	} {
		t.Run(name, func(t *testing.T) {
			var fatal error
			f, err := Open(Options{FS: vfs.NewMem(), Dir: "state", OnFatal: func(err error) { fatal = err }})
			require.NoError(t, err)
			out := f.ApplyBatch([]Entry{encodeAt(t, 1, cmd, command.Level1.CommandVersion())})
			require.ErrorIs(t, out[0].Err, command.ErrUnknownVersion)
			require.ErrorContains(t, fatal, "older version than the cluster")
			require.Zero(t, f.Applied())
			require.NoError(t, f.Close())
		})
	}
	fs := vfs.NewMem()
	f := openFSM(t, fs, nil)
	require.NoError(t, f.ApplyBatch([]Entry{encode(t, 1, &command.FormatCluster{ClusterID: "c", Features: level(command.MaxLevel)})})[0].Err)
	b, err := encodeValue(&statepb.Cluster{ClusterId: "c", Features: map[string]int32{command.Feature: int32(tooNew)}})
	require.NoError(t, err)
	require.NoError(t, f.db.Set([]byte(keyCluster), b, nil))
	require.NoError(t, f.Close())
	_, err = Open(Options{FS: fs, Dir: "state"})
	require.ErrorIs(t, err, command.ErrUnknownVersion)
	require.ErrorContains(t, err, "older version than the cluster, which is at level 3 of firn.version: this program knows 1 to 2")
}

// TestValueVersions: a partition with somebody cold and a broker whose disk is full are
// of version 2, everything else of version 1, so that a cluster at level 1 has what an old program reads.
func TestValueVersions(t *testing.T) {
	for _, g := range goldenValues() {
		if g.msg == nil {
			continue
		}
		b, err := encodeValue(g.msg)
		require.NoError(t, err)
		want := byte(1)
		if p, ok := g.msg.(*statepb.Partition); ok && len(p.GetCold()) > 0 {
			want = 2
		}
		if b, ok := g.msg.(*statepb.Broker); ok && b.GetFull() {
			want = 2
		}
		require.Equal(t, want, b[0], "%T", g.msg)
	}
	require.ErrorIs(t, decodeValue([]byte{0}, &statepb.Partition{}), command.ErrUnknownVersion)
	require.ErrorIs(t, decodeValue([]byte{valueVersion + 1}, &statepb.Partition{}), command.ErrUnknownVersion)
}

// level1Log is what a cluster at level 1 might have done.
func level1Log(t *testing.T) []Entry {
	directory := func(n byte) uuid.UUID { return uuid.UUID{n} }
	topic := record.TopicID{1}
	features := map[string]metadata.VersionRange{"metadata.version": {Min: 7, Max: 33}}
	tp := record.TopicPartition{Topic: topic}
	fence := command.Fence{BrokerID: 1, BrokerEpoch: 2}
	var log []Entry
	for i, cmd := range []command.Command{
		&command.FormatCluster{ClusterID: "AAAAAAAAAAAAAAAAAAAAAA", Features: map[string]int16{"metadata.version": 33}},
		&command.RegisterBroker{BrokerID: 1, DirectoryID: directory(1), Incarnation: directory(11), Features: features},
		&command.RegisterBroker{BrokerID: 2, DirectoryID: directory(2), Incarnation: directory(12), Features: features},
		&command.SetBrokerState{BrokerID: 1, BrokerEpoch: 2, State: command.BrokerActive},
		&command.SetBrokerState{BrokerID: 2, BrokerEpoch: 3, State: command.BrokerActive},
		&command.CreateTopics{Topics: []command.NewTopic{{ID: topic, Name: "orders", Assignments: [][]int32{{1, 2}, {2, 1}}}}},
		&command.CopyStarted{Fence: fence, Partition: tp, Object: uuid.UUID{9}, End: 10},
		&command.CopyFinished{Fence: fence, Partition: tp, Object: uuid.UUID{9}, Size: 1, Entry: manifest.Entry{End: 10, Epochs: []manifest.EpochStart{{}}}},
		&command.SetBrokerState{BrokerID: 2, BrokerEpoch: 3, State: command.BrokerFenced},
		&command.RegisterBroker{BrokerID: 2, DirectoryID: directory(3), Incarnation: directory(13), Features: features},
	} {
		log = append(log, encodeAt(t, uint64(i+1), cmd, command.Level1.CommandVersion()))
	}
	return log
}

// TestLevel1Opens: a snapshot of level 1, from a file that the build before wrote,
// restores to what the log of level 1 leads to, and the cluster goes on from there.
func TestLevel1Opens(t *testing.T) {
	f := openFSM(t, vfs.NewMem(), nil)
	for _, o := range f.ApplyBatch(level1Log(t)) {
		require.NoError(t, o.Err)
	}
	snap, err := f.Snapshot()
	require.NoError(t, err)
	var stream bytes.Buffer
	_, err = snap.WriteTo(&stream)
	require.NoError(t, err)
	require.NoError(t, snap.Release())
	compareGolden(t, "level1.golden", stream.Bytes())
	want, err := f.Hash()
	require.NoError(t, err)
	require.NoError(t, f.Close())

	file, err := os.ReadFile(filepath.Join("testdata", "level1.golden"))
	require.NoError(t, err)
	_, err = ReadSnapshot(bytes.NewReader(file), func(key, value []byte) error {
		if bytes.HasPrefix(key, []byte(prefixPartition)) {
			require.EqualValues(t, 1, value[0])
		}
		return nil
	})
	require.NoError(t, err)
	f = openFSM(t, vfs.NewMem(), nil)
	require.NoError(t, f.Restore(bytes.NewReader(file)))
	got, err := f.Hash()
	require.NoError(t, err)
	require.Equal(t, want, got)
	img := f.Image()
	require.Equal(t, command.Level1, img.Level())
	for tp, p := range img.AllPartitions() {
		require.Empty(t, p.Cold, tp)
	}
	features := map[string]metadata.VersionRange{command.Feature: {Min: 1, Max: 2}, "metadata.version": {Min: 7, Max: 33}}
	for i, cmd := range []command.Command{
		&command.RegisterBroker{BrokerID: 1, DirectoryID: uuid.UUID{1}, Incarnation: uuid.New(), Features: features},
		&command.RegisterBroker{BrokerID: 2, DirectoryID: uuid.UUID{4}, Incarnation: uuid.New(), Features: features},
		raise(command.Level2, false),
	} {
		o := f.ApplyBatch([]Entry{encodeAt(t, img.Index()+uint64(i)+1, cmd, command.Level1.CommandVersion())})[0]
		require.NoError(t, o.Err)
	}
	require.Equal(t, command.Level2, f.Image().Level())
	require.NoError(t, f.Close())
}
