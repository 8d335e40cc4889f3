package command

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

var update = flag.Bool("update", false, "write the golden file anew")

// samples has one of every kind, every field set.
func samples() []Command {
	topic := record.TopicID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	id := uuid.MustParse("00112233-4455-6677-8899-aabbccddeeff")
	tp := record.TopicPartition{Topic: topic, Partition: 7}
	req := Request{RequestID: uuid.MustParse("ffeeddcc-bbaa-9988-7766-554433221100")}
	fence := Fence{BrokerID: 1, BrokerEpoch: 12, LeaderEpoch: 3}
	return []Command{
		&FormatCluster{ClusterID: "AAAAAAAAAAAAAAAAAAAAAA", Features: map[string]int16{"metadata.version": 33, "transaction.version": 2},
			Configs: map[string]string{"min.insync.replicas": "2"}},
		&RegisterBroker{BrokerID: 1, DirectoryID: id, Incarnation: id, Rack: "r", Version: "1.0", Time: 5, ClusterAddress: "h:9094", Untrusted: true, ReplicatedByDefault: true,
			Endpoints: []Endpoint{{Listener: "PLAINTEXT", Host: "h", Port: 9092, Security: "PLAINTEXT"}}, Features: map[string]VersionRange{"a": {Min: 1, Max: 2}}},
		&UnregisterBroker{Request: req, BrokerID: 1, BrokerEpoch: -1},
		&SetBrokerState{BrokerID: 1, BrokerEpoch: 12, State: BrokerShuttingDown},
		&AllocateProducerIDs{Request: req, BrokerID: 1, BrokerEpoch: 12},
		&UpdateFeatures{Request: req, Updates: []FeatureUpdate{{Name: "a", Level: 2, Downgrade: true}}},
		&CreateTopics{Request: req, Time: 5, Topics: []NewTopic{{ID: topic, Name: "orders", Assignments: [][]int32{{1, 2}, {2, 1}}, Configs: map[string]string{"retention.ms": "1"}, Internal: true}}},
		&DeleteTopics{Request: req, Time: 5, Topics: []record.TopicID{topic}},
		&PurgeTopic{Topic: topic},
		&CreatePartitions{Request: req, Time: 5, Topics: []MorePartitions{{Topic: topic, Count: 3, Assignments: [][]int32{{1}}}}},
		&AlterConfigs{Request: req, Changes: []ConfigChange{{Resource: ConfigResource{Kind: ResourceBroker, Name: "1"}, Replace: true, Set: map[string]string{"a": "b"}, Delete: []string{"c"},
			Expect: []ConfigExpectation{{Name: "a", Value: "", Set: true}, {Name: "c"}}}}},
		&AlterPartition{BrokerID: 1, BrokerEpoch: 12, Partitions: []ISRChange{{Partition: tp, LeaderEpoch: 3, PartitionEpoch: 4, ISR: []ISRMember{{BrokerID: 1, BrokerEpoch: -1}}, Cold: []int32{3, 1}}}},
		&ElectLeaders{Elections: []Election{{Partition: tp, PartitionEpoch: 4, Leader: -1}, {Partition: tp, PartitionEpoch: -1, Leader: 2, Kind: ElectUnclean}}},
		&AlterReassignments{Request: req, KeepFactor: true, Items: []Reassignment{{Partition: tp, Replicas: []int32{3, 1}}, {Partition: tp}, {Partition: tp, Replicas: []int32{}}}},
		&AdvanceLogStart{BrokerID: 1, BrokerEpoch: 12, Partitions: []LogStartChange{{Partition: tp, LeaderEpoch: 3, LogStart: 100}}},
		&CopyStarted{Fence: fence, Partition: tp, Object: id, Store: "warm", Start: 100, End: 200, Generation: 1, Time: 5},
		&CopyFinished{Fence: fence, Partition: tp, Object: id, Size: 4096, Footer: 4000, Checksum: []byte{0xde, 0xad}, Time: 5,
			Entry: manifest.Entry{Start: 100, End: 200, Object: id, Run: 1, Epochs: []manifest.EpochStart{{Epoch: 3, Start: 90}}, Bytes: 4000, MinTimestamp: -1, MaxTimestamp: 7, FinishedAt: 5}},
		&CopyAbandoned{BrokerID: 1, BrokerEpoch: 12, Object: id, Time: 5},
		&DeleteStarted{BrokerID: 1, BrokerEpoch: 12, Time: 5, Entries: []EntryKey{{Partition: tp, Start: 100, Object: id}}},
		&DeleteFinished{BrokerID: 1, BrokerEpoch: 12, Objects: []uuid.UUID{id}},
	}
}

// TestEncodingIsWhole: no field is lost between Encode and Decode, and no field of
// a sample is left unset, so that a new field cannot be forgotten.
func TestEncodingIsWhole(t *testing.T) {
	kinds := map[Kind]bool{}
	for _, cmd := range samples() {
		b, err := Encode(cmd)
		require.NoError(t, err)
		got, err := Decode(b)
		require.NoError(t, err)
		require.Equal(t, cmd, got)
		v := reflect.ValueOf(cmd).Elem()
		for i := range v.NumField() {
			require.False(t, v.Field(i).IsZero(), "%s.%s is unset", cmd.Kind(), v.Type().Field(i).Name)
		}
		kinds[cmd.Kind()] = true
	}
	require.Len(t, kinds, 20)
}

// TestGolden holds the encoding in each version that is written against a file of
// testdata: a changed line is a changed format.
func TestGolden(t *testing.T) {
	for version, name := range map[byte]string{2: "commands-v2.golden", 3: "commands.golden"} {
		var out strings.Builder
		for _, cmd := range samples() {
			b, err := EncodeAt(cmd, version)
			require.NoError(t, err)
			require.Equal(t, version, VersionOf(b))
			fmt.Fprintf(&out, "%s %s\n", cmd.Kind(), hex.EncodeToString(b))
		}
		path := filepath.Join("testdata", name)
		if *update {
			require.NoError(t, os.MkdirAll("testdata", 0o755))
			require.NoError(t, os.WriteFile(path, []byte(out.String()), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), out.String(), "the format changed: raise its version")
	}
}

// TestLevels: the level that a cluster has says what its commands may say.
func TestLevels(t *testing.T) {
	require.Equal(t, Level1, LevelOf(nil), "a cluster of the time before there were levels")
	require.Equal(t, Level1, LevelOf(map[string]int16{Feature: 1}))
	require.Equal(t, Level2, LevelOf(map[string]int16{Feature: 2}))
	require.Equal(t, Version, MaxLevel.CommandVersion())
	cmd := &AlterPartition{Partitions: []ISRChange{{ISR: []ISRMember{{BrokerID: 1, BrokerEpoch: -1}}, Cold: []int32{2}}}}
	old, err := EncodeAt(cmd, Level1.CommandVersion())
	require.NoError(t, err)
	got, err := Decode(old)
	require.NoError(t, err)
	require.Empty(t, got.(*AlterPartition).Partitions[0].Cold, "an older program would not know what to do with it")
	require.Equal(t, []int32{2}, cmd.Partitions[0].Cold, "the caller's command is his")
	newer, err := EncodeAt(cmd, Level2.CommandVersion())
	require.NoError(t, err)
	newer[0] = Level1.CommandVersion() // nobody writes that: it says nothing
	got, err = Decode(newer)
	require.NoError(t, err)
	require.Empty(t, got.(*AlterPartition).Partitions[0].Cold)
	for _, version := range []byte{0, 1, Version + 1} {
		_, err = EncodeAt(cmd, version)
		require.ErrorIs(t, err, ErrUnknownVersion)
	}
}

// TestReadsVersion1: what one-node clusters wrote before the first release decodes.
func TestReadsVersion1(t *testing.T) {
	golden, err := os.ReadFile(filepath.Join("testdata", "commands-v1.golden"))
	require.NoError(t, err)
	var kinds int
	for line := range strings.Lines(string(golden)) {
		kind, data, ok := strings.Cut(strings.TrimSpace(line), " ")
		require.True(t, ok)
		b, err := hex.DecodeString(data)
		require.NoError(t, err)
		cmd, err := Decode(b)
		require.NoError(t, err, kind)
		require.Equal(t, Kind(kind), cmd.Kind())
		kinds++
	}
	require.Equal(t, 18, kinds)
}

func TestDecodeRefuses(t *testing.T) {
	_, err := Decode(nil)
	require.ErrorIs(t, err, ErrCorrupt)
	_, err = Decode([]byte{Version + 1, 0})
	require.ErrorIs(t, err, ErrUnknownVersion)
	_, err = Decode([]byte{0, 0})
	require.ErrorIs(t, err, ErrUnknownVersion)
	_, err = Decode([]byte{Version})
	require.ErrorIs(t, err, ErrUnknownVersion)
	_, err = Decode([]byte{Version, 0xff})
	require.ErrorIs(t, err, ErrCorrupt)
	_, err = Encode(nil)
	require.ErrorIs(t, err, ErrInvalid)
	_, err = Encode(&FormatCluster{ClusterID: "\xff"})
	require.ErrorIs(t, err, ErrInvalid)
}

// FuzzDecode decodes any bytes: a typed error, or a command that encodes and
// decodes to itself.
func FuzzDecode(f *testing.F) {
	for _, cmd := range samples() {
		b, err := Encode(cmd)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{Version, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknownVersion) {
				t.Fatalf("not a typed error: %v", err)
			}
			return
		}
		again, err := Encode(cmd)
		if err != nil {
			t.Fatalf("decoded %+v does not encode: %v", cmd, err)
		}
		copied, err := Decode(again)
		if err != nil {
			t.Fatal(err)
		}
		once, err := Encode(copied)
		if err != nil || string(once) != string(again) {
			t.Fatalf("%+v became %+v (%v)", cmd, copied, err)
		}
	})
}
