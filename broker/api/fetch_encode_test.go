package api

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/broker/fetch"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/remote"
)

// flat is the answer as a socket would get it.
func flat(t require.TestingT, sections []wire.Section) []byte {
	var out []byte
	for _, s := range sections {
		if s.Range.File == nil {
			out = append(out, s.Bytes...)
			continue
		}
		b := make([]byte, s.Range.Len)
		_, err := s.Range.File.ReadAt(b, s.Range.Off)
		require.NoError(t, err)
		out = append(out, b...)
	}
	return out
}

// encodeSource is a file whose ranges stand for batches, on a log's file system.
type encodeSource struct {
	bytes []byte
	log   *segment.File
}

func newEncodeSource(t *testing.T) *encodeSource {
	s := &encodeSource{bytes: make([]byte, 4096)}
	for i := range s.bytes {
		s.bytes[i] = byte(i * 7)
	}
	path := filepath.Join(t.TempDir(), "source")
	require.NoError(t, os.WriteFile(path, s.bytes, 0o600))
	fds := segment.NewFDCache(4)
	s.log = segment.NewFile(fds, vfs.Default, path, false)
	require.NoError(t, s.log.Acquire())
	t.Cleanup(s.log.Release)
	return s
}

// drawGot makes one partition's answer, and its records as one piece.
func (s *encodeSource) drawGot(t *rapid.T) (g fetch.Got, records []byte) {
	span := func() (off, n int64) {
		off = rapid.Int64Range(0, 4000).Draw(t, "off")
		return off, rapid.Int64Range(1, 4096-off).Draw(t, "len")
	}
	g.State = partition.State{
		Leader: rapid.Int32Range(0, 3).Draw(t, "leader"), LeaderEpoch: record.Epoch(rapid.Int32Range(0, 9).Draw(t, "epoch")),
		HighWatermark: record.Offset(rapid.Int64Range(0, 1<<40).Draw(t, "hw")), LastStable: 7, LogStart: 3,
	}
	g.Preferred = rapid.SampledFrom([]int32{-1, 0, 2}).Draw(t, "preferred")
	switch rapid.IntRange(0, 6).Draw(t, "kind") {
	case 0:
		g.Err = kerr.OffsetOutOfRange
	case 1:
		g.Err = kerr.NotLeaderForPartition
	case 2:
		g.Err = fmt.Errorf("%w: with words", kerr.FencedLeaderEpoch)
	case 3:
		g.Diverging = &partition.Diverging{Epoch: 4, End: 1234}
	case 4: // nothing new
	case 5:
		for range rapid.IntRange(1, 3).Draw(t, "extents") {
			off, n := span()
			g.Local.Extents = append(g.Local.Extents, commitlog.Extent{File: s.log, Pos: off, Len: n})
			g.Local.Bytes += n
			records = append(records, s.bytes[off:off+n]...)
		}
	case 6:
		g.Remote = new(remote.Result)
		for range rapid.IntRange(1, 3).Draw(t, "pieces") {
			off, n := span()
			g.Remote.Pieces = append(g.Remote.Pieces, remote.Piece{Len: n, Bytes: s.bytes[off : off+n]})
			g.Remote.Bytes += n
			records = append(records, s.bytes[off:off+n]...)
		}
	}
	if g.Err == nil && rapid.Bool().Draw(t, "committed") {
		g.Aborted = []producer.Aborted{}
		for i := range rapid.IntRange(0, 2).Draw(t, "aborted") {
			g.Aborted = append(g.Aborted, producer.Aborted{ProducerID: int64(i) + 5, First: record.Offset(i) + 9})
		}
	}
	return g, records
}

// wantPartition is the partition as kmsg should decode it.
func wantPartition(v int16, n int32, g *fetch.Got, records []byte) kmsg.FetchResponseTopicPartition {
	k := kmsg.NewFetchResponseTopicPartition()
	k.Partition, k.ErrorCode, k.RecordBatches = n, codeOf(g.Err), append([]byte{}, records...)
	k.HighWatermark, k.LastStableOffset, k.LogStartOffset = -1, -1, -1
	if v >= 11 {
		k.PreferredReadReplica = g.Preferred
	}
	if g.Err == nil {
		k.HighWatermark, k.LastStableOffset = int64(g.State.HighWatermark), int64(g.State.LastStable)
		if v >= 5 {
			k.LogStartOffset = int64(g.State.LogStart)
		}
	}
	if g.Aborted != nil {
		k.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{}
	}
	for _, a := range g.Aborted {
		x := kmsg.NewFetchResponseTopicPartitionAbortedTransaction()
		x.ProducerID, x.FirstOffset = a.ProducerID, int64(a.First)
		k.AbortedTransactions = append(k.AbortedTransactions, x)
	}
	if v >= 12 && g.Diverging != nil {
		k.DivergingEpoch.Epoch, k.DivergingEpoch.EndOffset = int32(g.Diverging.Epoch), int64(g.Diverging.End)
	}
	if v >= 12 && (errors.Is(g.Err, kerr.NotLeaderForPartition) || errors.Is(g.Err, kerr.FencedLeaderEpoch)) {
		k.CurrentLeader.LeaderID, k.CurrentLeader.LeaderEpoch = g.State.Leader, int32(g.State.LeaderEpoch)
	}
	return k
}

// Whatever is encoded, kmsg reads it back at every version.
func TestFetchEncoder(t *testing.T) {
	source := newEncodeSource(t)
	for v := int16(4); v <= 18; v++ {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				session := rapid.Int32Range(0, 1<<31-1).Draw(t, "session")
				e := newFetchEncoder(v, session)
				want := kmsg.NewFetchResponse()
				want.SetVersion(v)
				if v >= 7 {
					want.SessionID = session
				}
				want.Topics = []kmsg.FetchResponseTopic{}
				brokers := make(map[int32]bool)
				for ti := range rapid.IntRange(0, 3).Draw(t, "topics") {
					key := fetch.SessionKey{}
					rt := kmsg.NewFetchResponseTopic()
					if v >= 13 {
						key.ID = record.TopicID{byte(ti) + 1}
						rt.TopicID = key.ID
					} else {
						key.Name = fmt.Sprintf("topic-%d", ti)
						rt.Topic = key.Name
					}
					for n := range rapid.IntRange(1, 4).Draw(t, "partitions") {
						g, records := source.drawGot(t)
						key.Partition = int32(n)
						e.partition(key, &g)
						rt.Partitions = append(rt.Partitions, wantPartition(v, int32(n), &g, records))
						if v >= 16 && leadershipError(g.Err) {
							rack := "r"
							e.node(g.State.Leader, "host", 9092, &rack)
							if !brokers[g.State.Leader] {
								brokers[g.State.Leader] = true
								b := kmsg.NewFetchResponseBroker()
								b.NodeID, b.Host, b.Port, b.Rack = g.State.Leader, "host", 9092, &rack
								want.Brokers = append(want.Brokers, b)
							}
						}
					}
					want.Topics = append(want.Topics, rt)
				}
				raw := flat(t, e.finish())
				e.free()
				got := kmsg.NewFetchResponse()
				got.SetVersion(v)
				require.NoError(t, got.ReadFrom(raw))
				if len(got.Topics) == 0 {
					got.Topics = []kmsg.FetchResponseTopic{}
				}
				require.Equal(t, want, got)
				if v < 12 {
					require.True(t, bytes.Equal(want.AppendTo(nil), raw), "byte for byte: no count is spelled otherwise")
				}
			})
		})
	}
}
