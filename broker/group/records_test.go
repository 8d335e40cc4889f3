package group

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

var rewriteGolden = flag.Bool("rewrite-golden", false, "write testdata/records.golden anew")

// goldenGroup is a group of two members, one static.
func goldenGroup() *classicGroup {
	cfg := DefaultConfig()
	i1 := "instance-1"
	g := newClassicGroup("group-é", &cfg, nil, epoch)
	g.generation, g.protocol, g.state = 42, "range", Stable
	g.add(&member{
		id: "c-1", clientID: "c", clientHost: "/10.0.0.1", sessionTimeout: 45 * time.Second, rebalanceTimeout: 5 * time.Minute,
		protocols:  []Protocol{{"range", subscription("orders")}},
		assignment: []byte{0, 3, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
	}, "consumer", nil)
	g.add(&member{
		id: "instance-1-2", instanceID: &i1, clientID: "d", clientHost: "/10.0.0.2", sessionTimeout: 6 * time.Second, rebalanceTimeout: time.Minute,
		protocols:  []Protocol{{"range", subscription("orders", "payments")}},
		assignment: []byte{},
	}, "consumer", nil)
	return g
}

func goldenRecords() []Record {
	id, err := record.ParseTopicID("MTIzNDU2Nzg5MDEyMzQ1Ng")
	if err != nil {
		panic(err)
	}
	cfg := DefaultConfig()
	return []Record{
		offsetRecord("group-é", "orders", 3, &committed{offset: 1 << 40, leaderEpoch: 5, metadata: "host-1", commitAt: epoch.UnixMilli(), expireAt: -1, topicID: id}),
		offsetRecord("group-é", "orders", 4, &committed{offset: 7, leaderEpoch: -1, commitAt: epoch.UnixMilli(), expireAt: -1}),
		offsetRecord("group-é", "orders", 5, &committed{offset: 7, leaderEpoch: 9, metadata: "x", commitAt: epoch.UnixMilli(), expireAt: epoch.UnixMilli() + 1}),
		{Key: offsetKey("group-é", "orders", 3)},
		newClassicGroup("new", &cfg, nil, epoch).record(),
		goldenGroup().record(),
		{Key: groupKey("group-é")},
	}
}

// TestGolden holds the records to the bytes of docs/format/consumer-offsets.md.
func TestGolden(t *testing.T) {
	const path = "testdata/records.golden"
	var b strings.Builder
	for _, r := range goldenRecords() {
		value := "null"
		if r.Value != nil {
			value = hex.EncodeToString(r.Value)
		}
		fmt.Fprintf(&b, "key   %x\nvalue %s\n\n", r.Key, value)
	}
	if *rewriteGolden {
		require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), b.String())
}

// What kmsg encodes, at any version, we decode, and the reverse.
func TestOffsetAgainstKmsg(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := kmsg.NewOffsetCommitValue()
		v.Version = rapid.Int16Range(0, 4).Draw(t, "version")
		v.Offset, v.LeaderEpoch = rapid.Int64().Draw(t, "offset"), rapid.Int32().Draw(t, "epoch")
		v.Metadata = rapid.String().Draw(t, "metadata")
		v.CommitTimestamp = rapid.Int64().Draw(t, "commit")
		v.ExpireTimestamp = rapid.Int64().Draw(t, "expire")
		copy(v.TopicID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		if v.Version >= 4 && rapid.Bool().Draw(t, "unknown tag") {
			v.UnknownTags.Set(9, []byte("future"))
		}
		want := committed{offset: v.Offset, leaderEpoch: -1, metadata: v.Metadata, commitAt: v.CommitTimestamp, expireAt: -1}
		if v.Version >= 3 {
			want.leaderEpoch = v.LeaderEpoch
		}
		if v.Version == 1 {
			want.expireAt = v.ExpireTimestamp
		}
		if v.Version >= 4 {
			want.topicID = v.TopicID
		}
		b := v.AppendTo(nil)
		got, err := decodeOffset(b)
		require.NoError(t, err)
		require.Equal(t, want, got)
		_, err = decodeOffset(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")])
		require.ErrorIs(t, err, ErrCorrupt)

		r := offsetRecord("g", "t", 7, &got)
		var back kmsg.OffsetCommitValue
		require.NoError(t, back.ReadFrom(r.Value))
		require.Equal(t, r.Value, back.AppendTo(nil))
		k, err := decodeKey(r.Key)
		require.NoError(t, err)
		require.Equal(t, key{kind: keyOffsetCommit, group: "g", topic: "t", partition: 7}, k)
	})
}

func TestGroupAgainstKmsg(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		str := func(name string) string { return rapid.String().Draw(t, name) }
		opt := func(name string) *string {
			if s := str(name); s != "" {
				return &s
			}
			return nil
		}
		v := kmsg.NewGroupMetadataValue()
		v.Version = rapid.Int16Range(0, 4).Draw(t, "version")
		v.ProtocolType, v.Generation = str("type"), rapid.Int32().Draw(t, "generation")
		v.Protocol, v.Leader = opt("protocol"), opt("leader")
		v.CurrentStateTimestamp = rapid.Int64().Draw(t, "since")
		for range rapid.IntRange(0, 4).Draw(t, "members") {
			m := kmsg.NewGroupMetadataValueMember()
			m.MemberID, m.InstanceID, m.ClientID, m.ClientHost = str("id"), opt("instance"), str("client"), str("host")
			m.RebalanceTimeoutMillis = rapid.Int32Range(0, 1<<30).Draw(t, "rebalance")
			m.SessionTimeoutMillis = rapid.Int32Range(0, 1<<30).Draw(t, "session")
			m.Subscription, m.Assignment = []byte(str("subscription")), []byte(str("assignment"))
			if v.Version >= 4 {
				m.UnknownTags.Set(3, []byte(str("tag")))
			}
			v.Members = append(v.Members, m)
		}
		b := v.AppendTo(nil)
		got, err := decodeGroup(b)
		require.NoError(t, err)
		require.Equal(t, v.ProtocolType, got.protocolType)
		require.Equal(t, v.Generation, got.generation)
		require.Equal(t, v.Protocol, nullable(got.protocol))
		require.Equal(t, v.Leader, nullable(got.leader))
		if v.Version >= 2 {
			require.Equal(t, v.CurrentStateTimestamp, got.since)
		}
		require.Len(t, got.members, len(v.Members))
		for i, m := range v.Members {
			g := got.members[i]
			require.Equal(t, []string{m.MemberID, m.ClientID, m.ClientHost}, []string{g.id, g.clientID, g.clientHost})
			if v.Version >= 3 {
				require.Equal(t, m.InstanceID, g.instanceID)
			}
			require.EqualValues(t, m.SessionTimeoutMillis, g.sessionTimeout.Milliseconds())
			if v.Version >= 1 {
				require.EqualValues(t, m.RebalanceTimeoutMillis, g.rebalanceTimeout.Milliseconds())
			} else {
				require.Equal(t, g.sessionTimeout, g.rebalanceTimeout)
			}
			require.Equal(t, m.Subscription, g.subscription)
			require.Equal(t, m.Assignment, g.assignment)
		}
		_, err = decodeGroup(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")])
		require.ErrorIs(t, err, ErrCorrupt)
	})
}

func FuzzDecode(f *testing.F) {
	for _, r := range goldenRecords() {
		f.Add(r.Key)
		f.Add(r.Value)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// Each either fails with ErrCorrupt or agrees with kmsg, whose readers
		// are only safe on what ours accepted.
		if _, err := decodeKey(b); err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
		}
		if c, err := decodeOffset(b); err == nil {
			var v kmsg.OffsetCommitValue
			require.NoError(t, v.ReadFrom(b))
			require.Equal(t, v.Offset, c.offset)
			require.Equal(t, v.Metadata, c.metadata)
			require.Equal(t, v.TopicID, [16]byte(c.topicID))
		} else {
			require.ErrorIs(t, err, ErrCorrupt)
		}
		if g, err := decodeGroup(b); err == nil {
			var v kmsg.GroupMetadataValue
			require.NoError(t, v.ReadFrom(b))
			require.Len(t, v.Members, len(g.members))
			require.Equal(t, v.Generation, g.generation)
		} else {
			require.ErrorIs(t, err, ErrCorrupt)
		}
		subscribedTopics(b, map[string]struct{}{})
	})
}
