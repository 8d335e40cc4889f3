package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// sample is a reply with everything that one may have.
func sample() *kmsg.FetchResponse {
	resp := kmsg.NewPtrFetchResponse()
	resp.Version = fetchVersion
	resp.SessionID, resp.ThrottleMillis = 77, 5
	t := kmsg.NewFetchResponseTopic()
	t.TopicID = record.NewTopicID()
	p := kmsg.NewFetchResponseTopicPartition()
	p.Partition, p.HighWatermark, p.LastStableOffset, p.LogStartOffset = 3, 9, 8, 1
	p.RecordBatches = []byte("batches")
	aborted := kmsg.NewFetchResponseTopicPartitionAbortedTransaction()
	aborted.ProducerID, aborted.FirstOffset = 4, 5
	p.AbortedTransactions = append(p.AbortedTransactions, aborted)
	p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch = 2, 6
	t.Partitions = append(t.Partitions, p)
	d := kmsg.NewFetchResponseTopicPartition()
	d.Partition, d.DivergingEpoch.Epoch, d.DivergingEpoch.EndOffset = 4, 2, 20
	t.Partitions = append(t.Partitions, d)
	e := kmsg.NewFetchResponseTopicPartition()
	e.Partition, e.ErrorCode, e.HighWatermark = 5, kerr.FencedLeaderEpoch.Code, -1
	t.Partitions = append(t.Partitions, e)
	resp.Topics = append(resp.Topics, t)
	node := kmsg.NewFetchResponseBroker()
	node.NodeID, node.Host, node.Port = 1, "one.test", 9092
	resp.Brokers = append(resp.Brokers, node)
	return resp
}

// body is a reply from behind its correlation id.
func body(resp *kmsg.FetchResponse) []byte { return resp.AppendTo([]byte{0}) }

func walk(b []byte) (head replyHead, parts []partReply, err error) {
	err = walkReply(b, func(h *replyHead) error { head = *h; return nil }, func(p *partReply) error {
		parts = append(parts, *p)
		return nil
	})
	return head, parts, err
}

func TestReplyIsReadAsItWasWritten(t *testing.T) {
	resp := sample()
	head, parts, err := walk(body(resp))
	require.NoError(t, err)
	require.Equal(t, replyHead{Throttle: 5, SessionID: 77}, head)
	topic := record.TopicID(resp.Topics[0].TopicID)
	require.Equal(t, []partReply{
		{Topic: topic, Partition: 3, HighWatermark: 9, LogStart: 1, DivergingEpoch: -1, DivergingEnd: -1, Records: []byte("batches")},
		{Topic: topic, Partition: 4, Diverges: true, DivergingEpoch: 2, DivergingEnd: 20, LogStart: -1, Records: []byte{}},
		{Topic: topic, Partition: 5, Err: kerr.FencedLeaderEpoch.Code, HighWatermark: -1, LogStart: -1, DivergingEpoch: -1,
			DivergingEnd: -1, Records: []byte{}},
	}, parts)
	require.Equal(t, replica.ReplyRecords, kindOf(&parts[0]))
	require.Equal(t, replica.ReplyDiverging, kindOf(&parts[1]))
	require.Equal(t, replica.ReplyRefused, kindOf(&parts[2]))
}

// The walker against kmsg's decoder, on random replies.
func TestReplyAgainstKmsg(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		resp := kmsg.NewPtrFetchResponse()
		resp.Version = fetchVersion
		resp.ErrorCode, resp.SessionID = rapid.Int16().Draw(t, "error"), rapid.Int32().Draw(t, "session")
		for range rapid.IntRange(0, 3).Draw(t, "topics") {
			topic := kmsg.NewFetchResponseTopic()
			topic.TopicID = record.NewTopicID()
			for range rapid.IntRange(0, 4).Draw(t, "partitions") {
				p := kmsg.NewFetchResponseTopicPartition()
				p.Partition, p.ErrorCode = rapid.Int32().Draw(t, "partition"), rapid.Int16().Draw(t, "error")
				p.HighWatermark, p.LogStartOffset = rapid.Int64().Draw(t, "hw"), rapid.Int64().Draw(t, "start")
				p.RecordBatches = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "records")
				if rapid.Bool().Draw(t, "diverges") {
					p.DivergingEpoch.Epoch = rapid.Int32Min(0).Draw(t, "epoch")
					p.DivergingEpoch.EndOffset = rapid.Int64Min(0).Draw(t, "end")
				}
				topic.Partitions = append(topic.Partitions, p)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		head, parts, err := walk(body(resp))
		if err != nil || head.Err != resp.ErrorCode || head.SessionID != resp.SessionID {
			t.Fatalf("%+v, %v", head, err)
		}
		i := 0
		for _, topic := range resp.Topics {
			for _, p := range topic.Partitions {
				got := parts[i]
				i++
				if got.Topic != topic.TopicID || got.Partition != p.Partition || got.Err != p.ErrorCode || int64(got.HighWatermark) != p.HighWatermark ||
					int64(got.LogStart) != p.LogStartOffset || !slices.Equal(got.Records, p.RecordBatches) ||
					got.Diverges != (p.DivergingEpoch.EndOffset >= 0) || int32(got.DivergingEpoch) != p.DivergingEpoch.Epoch ||
					int64(got.DivergingEnd) != p.DivergingEpoch.EndOffset {
					t.Fatalf("%+v read as %+v", p, got)
				}
			}
		}
		if i != len(parts) {
			t.Fatalf("%d partitions read as %d", i, len(parts))
		}
	})
}

func TestACutReplyIsMalformed(t *testing.T) {
	whole := body(sample())
	for n := range whole {
		_, _, err := walk(whole[:n])
		require.ErrorIs(t, err, errBadReply, "cut at %d of %d", n, len(whole))
	}
	_, _, err := walk(append(slices.Clone(whole), 0))
	require.ErrorIs(t, err, errBadReply)
	stop := errors.New("stop")
	require.ErrorIs(t, walkReply(whole, func(*replyHead) error { return stop }, nil), stop)
	require.ErrorIs(t, walkReply(whole, func(*replyHead) error { return nil }, func(*partReply) error { return stop }), stop)
}

// Whatever the bytes: no panic, nothing beyond the frame, and a walk that ends.
func FuzzReply(f *testing.F) {
	f.Add(body(sample()))
	empty := kmsg.NewPtrFetchResponse()
	empty.Version = fetchVersion
	f.Add(body(empty))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, parts, err := walk(b)
		total := 0
		for _, p := range parts {
			total += len(p.Records)
		}
		if total > len(b) {
			t.Fatalf("%d bytes of records in %d", total, len(b))
		}
		if err != nil && !errors.Is(err, errBadReply) {
			t.Fatal(err)
		}
	})
}

func TestWalkingAReplyAllocatesNothing(t *testing.T) {
	b := body(sample())
	head, part := func(*replyHead) error { return nil }, func(*partReply) error { return nil }
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		if err := walkReply(b, head, part); err != nil {
			t.Fatal(err)
		}
	}), 2.0, "for the reply, however many partitions it has")
}

// fakeLeader answers each Fetch on a pipe as it is told to.
type fakeLeader struct {
	requests chan *kmsg.FetchRequest
	replies  chan []byte // whole frames without their length; nil hangs up
}

func (f *fakeLeader) dial(context.Context, int32) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer ours.Close()
		for {
			var size [4]byte
			if _, err := io.ReadFull(ours, size[:]); err != nil {
				return
			}
			frame := make([]byte, binary.BigEndian.Uint32(size[:]))
			if _, err := io.ReadFull(ours, frame); err != nil {
				return
			}
			req := kmsg.NewPtrFetchRequest()
			req.Version = fetchVersion
			n := 8 + 2 + int(binary.BigEndian.Uint16(frame[8:])) + 1
			if err := req.ReadFrom(frame[n:]); err != nil {
				return
			}
			f.requests <- req
			reply := <-f.replies
			if reply == nil {
				return
			}
			copy(reply, frame[4:8]) // the correlation id
			if _, err := ours.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(reply))), reply...)); err != nil {
				return
			}
		}
	}()
	return theirs, nil
}

// frame is a whole reply with room for the correlation id.
func frame(resp *kmsg.FetchResponse) []byte { return resp.AppendTo(make([]byte, 5)) }

func TestRequestNamesTheFollowerAndItsPositions(t *testing.T) {
	o := Options{NodeID: 4, MinBytes: 1, ResponseBytes: 100}
	var q request
	one, two := record.NewTopicID(), record.NewTopicID()
	for round := range 2 { // the second uses the arrays of the first again
		q.reset()
		for n := range int32(3 - round) {
			q.add(record.TopicPartition{Topic: one, Partition: 2 - n}, &replica.Position{LeaderEpoch: 7, Offset: record.Offset(n), LastEpoch: 6}, 5, 10)
			q.add(record.TopicPartition{Topic: two, Partition: n}, &replica.Position{LeaderEpoch: 8, Offset: 20, LastEpoch: -1}, 0, 10)
		}
		q.forget([]record.TopicPartition{{Topic: two, Partition: 9}, {Topic: one, Partition: 8}, {Topic: two, Partition: 7}})
		b := q.encode(&o, 250*time.Millisecond, 33, 5, 6, 1)
		require.EqualValues(t, len(b)-4, binary.BigEndian.Uint32(b))
		req := kmsg.NewPtrFetchRequest()
		req.Version = fetchVersion
		require.NoError(t, req.ReadFrom(b[4+8+2+int(binary.BigEndian.Uint16(b[12:]))+1:]))
		require.EqualValues(t, 4, req.ReplicaState.ID)
		require.EqualValues(t, 33, req.ReplicaState.Epoch)
		require.EqualValues(t, 250, req.MaxWaitMillis)
		require.Len(t, req.Topics, 2)
		require.Len(t, req.ForgottenTopics, 2)
		total := 0
		for _, topic := range req.Topics {
			total += len(topic.Partitions)
			for i, p := range topic.Partitions {
				if i > 0 {
					require.Less(t, topic.Partitions[i-1].Partition, p.Partition)
				}
				if topic.TopicID == one {
					require.EqualValues(t, 7, p.CurrentLeaderEpoch)
					require.EqualValues(t, 2-p.Partition, p.FetchOffset)
					require.EqualValues(t, 6, p.LastFetchedEpoch)
					require.EqualValues(t, 5, p.LogStartOffset, "where its local log begins")
				}
			}
		}
		require.Equal(t, 6-2*round, total)
		for _, topic := range req.ForgottenTopics {
			if topic.TopicID == two {
				require.Equal(t, []int32{7, 9}, topic.Partitions)
			}
		}
	}
}

// BenchmarkWalkReply reads a reply of a thousand partitions with a batch each.
func BenchmarkWalkReply(b *testing.B) {
	resp := kmsg.NewPtrFetchResponse()
	resp.Version = fetchVersion
	t := kmsg.NewFetchResponseTopic()
	for n := range int32(1000) {
		p := kmsg.NewFetchResponseTopicPartition()
		p.Partition, p.HighWatermark, p.RecordBatches = n, 9, make([]byte, 200)
		t.Partitions = append(t.Partitions, p)
	}
	resp.Topics = append(resp.Topics, t)
	frame := body(resp)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if err := walkReply(frame, func(*replyHead) error { return nil }, func(p *partReply) error { n += len(p.Records); return nil }); err != nil || n != 200_000 {
			b.Fatal(n, err)
		}
	}
}
