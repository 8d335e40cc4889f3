package fsm

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm/statepb"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

var update = flag.Bool("update", false, "write the golden files anew")

type goldenValue struct {
	key []byte
	msg proto.Message
}

// goldenValues has one of each stored value, every field set.
func goldenValues() []goldenValue {
	topic := record.TopicID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	object := uuid.MustParse("00112233-4455-6677-8899-aabbccddeeff")
	tp := record.TopicPartition{Topic: topic, Partition: 7}
	o, err := outcomeToProto(&Outcome{Result: command.Result{Index: 9, Items: []command.ItemResult{{Topic: topic, LeaderEpoch: 1, PartitionEpoch: 2, LogStart: 3},
		{Err: refuse(command.ErrExists, "topic a exists")}}, BrokerEpoch: 4, ProducerIDs: command.ProducerIDBlock{First: 1000, Count: 1000}, Applied: true, Objects: []uuid.UUID{object}}})
	if err != nil {
		panic(err)
	}
	return []goldenValue{
		{[]byte(keyCluster), &statepb.Cluster{ClusterId: "AAAAAAAAAAAAAAAAAAAAAA", Features: map[string]int32{"metadata.version": 33, "transaction.version": 2}, FeaturesEpoch: 5, NextProducerId: 3000}},
		{brokerKey(1), brokerToProto(&metadata.Broker{ID: 1, DirectoryID: object, Incarnation: object, Epoch: 12, Rack: "r1", Version: "1.0", Fenced: true, ShuttingDown: true, RegisteredAt: 1700000000000, ClusterAddress: "h:9094",
			Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT", Host: "h", Port: 9092, Security: "PLAINTEXT"}}, Features: map[string]metadata.VersionRange{"metadata.version": {Min: 7, Max: 33}}})},
		{brokerKey(2), brokerToProto(&metadata.Broker{ID: 2, DirectoryID: object, Incarnation: object, Epoch: 13, Full: true})},
		{topicKey(topic), topicToProto(&metadata.Topic{ID: topic, Name: "orders", Partitions: 12, Internal: true, Configs: map[string]string{"cleanup.policy": "compact", "retention.ms": "1"}, CreatedAt: 1700000000000})},
		{partitionKey(tp), partitionToProto(&metadata.Partition{Replicas: []int32{1, 2, 3}, ISR: []int32{1, 3}, ELR: []int32{2}, Leader: 1, LeaderEpoch: 4, PartitionEpoch: 9, LogStart: 100, RemoteEnd: 200, RemoteEpoch: 3,
			LastKnownLeader: -1, Adding: []int32{4}, Removing: []int32{2}})},
		{partitionKey(record.TopicPartition{Topic: topic, Partition: 8}), partitionToProto(&metadata.Partition{Replicas: []int32{1, 2}, ISR: []int32{1, 2}, Leader: 1, LastKnownLeader: -1, RemoteEnd: 200, RemoteEpoch: 3,
			Cold: []int32{2}})},
		{configKey(metadata.ConfigResource{Kind: metadata.ResourceBroker, Name: "1"}), &statepb.Configs{Configs: map[string]string{"log.retention.ms": "5"}}},
		{objectKey(object), objectToProto(&metadata.Object{ID: object, State: metadata.ObjectDeleting, Store: "warm", Partition: tp, Start: 100, End: 200, LeaderEpoch: 3, BrokerID: 1, BrokerEpoch: 12, Generation: 1,
			Intent: 77, Size: 4096, Footer: 4000, Checksum: []byte{0xde, 0xad}, StartedAt: 1, FinishedAt: 2, DeletingSince: 3})},
		{entryKey(tp, 100), entryToProto(&manifest.Entry{Start: 100, End: 200, Object: object, Run: 1, Epochs: []manifest.EpochStart{{Epoch: 2, Start: 90}, {Epoch: 3, Start: 150}}, Bytes: 4000, MinTimestamp: -1, MaxTimestamp: 1700000000000, FinishedAt: 2})},
		{refKey(object, tp, 100), nil},
		{pendingKey(object), nil},
		{tombstoneKey(topic), &statepb.Tombstone{Name: "orders", Partitions: 12, DeletedAt: 1700000000000}},
		{requestKey(object), o},
		{reqOrderKey(9), nil},
	}
}

// TestGoldenValues holds keys and stored values against testdata/values.golden: a
// changed line is a changed format.
func TestGoldenValues(t *testing.T) {
	var out strings.Builder
	for _, g := range goldenValues() {
		fmt.Fprintf(&out, "%s", hex.EncodeToString(g.key))
		if g.msg != nil {
			b, err := encodeValue(g.msg)
			require.NoError(t, err)
			fmt.Fprintf(&out, " %s", hex.EncodeToString(b))
			canonical, err := canonicalValue(string(g.key), b)
			require.NoError(t, err)
			require.Equal(t, b, canonical)
		}
		out.WriteByte('\n')
	}
	compareGolden(t, "values.golden", []byte(out.String()))
}

// TestGoldenSnapshot holds a snapshot stream against testdata/snapshot.golden, and
// reads the file back.
func TestGoldenSnapshot(t *testing.T) {
	f := openFSM(t, vfs.NewMem(), nil)
	for i, g := range goldenValues() {
		var b []byte
		if g.msg != nil {
			var err error
			b, err = encodeValue(g.msg)
			require.NoError(t, err, i)
		}
		require.NoError(t, f.db.Set(g.key, b, nil))
	}
	snap, err := f.Snapshot()
	require.NoError(t, err)
	var stream bytes.Buffer
	n, err := snap.WriteTo(&stream)
	require.NoError(t, err)
	require.Equal(t, int64(stream.Len()), n)
	require.NoError(t, snap.Release())
	require.NoError(t, f.Close())
	compareGolden(t, "snapshot.golden", stream.Bytes())
	var keys int
	_, err = ReadSnapshot(&stream, func(_, _ []byte) error { keys++; return nil })
	require.NoError(t, err)
	require.Equal(t, len(goldenValues())+1, keys) // and meta/format
}

func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, got, "the format changed: raise its version")
}
