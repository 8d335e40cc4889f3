package api

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/record"
)

// dialPeer connects as another broker of the cluster does.
func (b *dataBroker) dialPeer(node int32) *groupClient {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b.t, err)
	accepted := make(chan struct{})
	go func() {
		conn, err := ln.Accept()
		close(accepted)
		if err == nil {
			err = b.wire.ServeConn(conn, node)
		}
		if err != nil {
			b.t.Errorf("cluster port: %v", err)
		}
	}()
	c := (&groupBroker{t: b.t, addr: ln.Addr().String()}).dial()
	<-accepted
	require.NoError(b.t, ln.Close())
	return c
}

// commits waits until a follower that fetches is told a watermark: acks=1 is answered before
// the leader has flushed, and what is not flushed is not committed.
func commits(t *testing.T, peer *groupClient, req *kmsg.FetchRequest, watermark int64) {
	t.Helper()
	require.Eventually(t, func() bool { return fetchOne(peer, req, 17).HighWatermark == watermark }, 10*time.Second, time.Millisecond)
}

func followerFetch(name string, id record.TopicID, from int64) *kmsg.FetchRequest {
	req := fetchFrom(name, id, 0, from, 1, 0)
	req.ReplicaID, req.ReplicaState.ID, req.ReplicaState.Epoch = 2, 2, -1
	req.Topics[0].Partitions[0].ReplicaDirectoryID = [16]byte{7}
	return req
}

// Followers fetch to the log's end, on the cluster's port and nowhere else.
func TestFollowersFetchOnTheClusterPortAlone(t *testing.T) {
	b := startData(t)
	id := b.topic("t", nil, onBrokers(1, 2))
	c, peer := b.dial(), b.dialPeer(2)
	require.Zero(t, produced(c, produceTo("t", id, 1, 5000, 0, someBatch("a", "b")), 9).ErrorCode)
	eachVersion(t, 1, func(t *testing.T, v int16) {
		req := followerFetch("t", id, 0)
		c.send(req, v)
		resp := c.receiveAny(req).(*kmsg.FetchResponse)
		if v >= 7 {
			require.Equal(t, kerr.ClusterAuthorizationFailed.Code, resp.ErrorCode)
			require.Empty(t, resp.Topics)
		} else {
			require.Equal(t, kerr.ClusterAuthorizationFailed.Code, resp.Topics[0].Partitions[0].ErrorCode)
		}
		require.Empty(t, fetchOne(c, fetchFrom("t", id, 0, 0, 1, 0), v).RecordBatches, "not committed")
		p := fetchOne(peer, followerFetch("t", id, 0), v)
		require.Zero(t, p.ErrorCode)
		require.NotEmpty(t, p.RecordBatches)
		require.Zero(t, p.HighWatermark)
	})
	// What the follower has is committed.
	commits(t, peer, followerFetch("t", id, 2), 2)
	require.NotEmpty(t, fetchOne(c, fetchFrom("t", id, 0, 0, 1, 0), 17).RecordBatches)
	// A follower whose log went another way is told where.
	wrong := followerFetch("t", id, 5)
	wrong.Topics[0].Partitions[0].LastFetchedEpoch = 2
	p := fetchOne(peer, wrong, 17)
	require.Zero(t, p.ErrorCode)
	require.GreaterOrEqual(t, p.DivergingEpoch.EndOffset, int64(0))
}

// A broker that fetches in another's name is refused, and moves nobody's progress:
// what it was sent would count as durable there.
func TestFollowersFetchInTheirOwnName(t *testing.T) {
	b := startData(t)
	b.edit(func(e *metadata.Editor) { e.PutBroker(&metadata.Broker{ID: 3}) })
	id := b.topic("t", nil, onBrokers(1, 2, 3))
	require.Zero(t, produced(b.dial(), produceTo("t", id, 1, 5000, 0, someBatch("a", "b")), 9).ErrorCode)
	two, three, nobody := b.dialPeer(2), b.dialPeer(3), b.dialPeer(-1)
	as := func(replica int32, from int64) *kmsg.FetchRequest {
		req := followerFetch("t", id, from)
		req.ReplicaID, req.ReplicaState.ID = replica, replica
		return req
	}
	eachVersion(t, 1, func(t *testing.T, v int16) {
		for _, peer := range []*groupClient{two, nobody} {
			req := as(3, 2)
			peer.send(req, v)
			resp := peer.receiveAny(req).(*kmsg.FetchResponse)
			if v >= 7 {
				require.Equal(t, kerr.ClusterAuthorizationFailed.Code, resp.ErrorCode)
				require.Empty(t, resp.Topics)
			} else {
				require.Equal(t, kerr.ClusterAuthorizationFailed.Code, resp.Topics[0].Partitions[0].ErrorCode)
			}
		}
		require.Zero(t, fetchOne(two, as(2, 2), v).HighWatermark, "3 has nothing")
	})
	commits(t, three, as(3, 2), 2) // 3 says so itself
}

// Replica id −2 is told any replica's own end. It fetches as a consumer does.
func TestDebuggingReplicaAsksFollowers(t *testing.T) {
	b := startData(t)
	id := b.topic("t", nil, onBrokers(1, 2))
	c := b.dial()
	require.Zero(t, produced(c, produceTo("t", id, 1, 5000, 0, someBatch("a", "b")), 9).ErrorCode)
	commits(t, b.dialPeer(2), followerFetch("t", id, 2), 2)
	require.Zero(t, produced(c, produceTo("t", id, 1, 5000, 0, someBatch("c")), 9).ErrorCode)
	b.edit(func(e *metadata.Editor) {
		tp := record.TopicPartition{Topic: id}
		next := *b.meta.Image().Partition(tp)
		next.Leader, next.LeaderEpoch = 2, next.LeaderEpoch+1
		e.PutPartition(tp, &next)
	})
	committed := len(fetchOne(c, fetchFrom("t", id, 0, 0, 1, 0), 18).RecordBatches)
	require.Positive(t, committed)
	offsets := func(replica int32, at int64, v int16) kmsg.ListOffsetsResponseTopicPartition {
		req := kmsg.NewPtrListOffsetsRequest()
		rt, rp := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
		rp.Timestamp, rt.Topic = at, "t"
		rt.Partitions = append(rt.Partitions, rp)
		req.ReplicaID, req.Topics = replica, append(req.Topics, rt)
		return ask[*kmsg.ListOffsetsResponse](c, req, v).Topics[0].Partitions[0]
	}
	eachVersion(t, 2, func(t *testing.T, v int16) {
		require.Equal(t, kerr.NotLeaderForPartition.Code, offsets(-1, tsLatest, v).ErrorCode)
		end := offsets(debuggingReplica, tsLatest, v)
		require.Zero(t, end.ErrorCode)
		require.EqualValues(t, 3, end.Offset)
		require.Zero(t, offsets(debuggingReplica, tsEarliest, v).Offset)
		require.Zero(t, offsets(debuggingReplica, 0, v).ErrorCode)
	})
	eachVersion(t, 1, func(t *testing.T, v int16) {
		req := fetchFrom("t", id, 0, 0, 1, 0)
		req.ReplicaID, req.ReplicaState.ID = debuggingReplica, debuggingReplica
		for _, isolation := range []int8{0, 1} {
			req.IsolationLevel = isolation
			rd := readerOf(&wire.Request{Version: v}, req)
			require.Equal(t, isolation == 1, rd.committed, "transactions that are open are not for who asks for committed ones")
			require.Nil(t, rd.replica)
		}
		req.IsolationLevel = 0
		if v < 11 { // later ones may read followers (KIP-392)
			require.Equal(t, kerr.NotLeaderForPartition.Code, fetchOne(c, req, v).ErrorCode)
			return
		}
		p := fetchOne(c, req, v)
		require.Zero(t, p.ErrorCode)
		require.EqualValues(t, 2, p.HighWatermark)
		require.Len(t, p.RecordBatches, committed, "the third record is not committed")
	})
}

// An incremental fetch by the wire: it tells what is new, in what the client has
// named by id or by name.
func TestIncrementalFetch(t *testing.T) {
	b := startData(t)
	id := b.topic("t", nil, onBrokers(1), onBrokers(1), onBrokers(2))
	c, other := b.dial(), b.dial()
	for _, v := range []int16{7, 12, 13, 18} {
		open := fetchFrom("t", id, 0, 0, 1, 0)
		open.SessionEpoch = 0
		for n := range int64(2) {
			open.Topics[0].Partitions = append(open.Topics[0].Partitions, open.Topics[0].Partitions[0])
			open.Topics[0].Partitions[n+1].Partition = int32(n + 1)
		}
		for n := range 2 {
			open.Topics[0].Partitions[n].FetchOffset = int64(b.set.Get(record.TopicPartition{Topic: id, Partition: int32(n)}).State().LogEnd)
		}
		c.send(open, v)
		resp := c.receiveAny(open).(*kmsg.FetchResponse)
		require.NotZero(t, resp.SessionID)
		require.Len(t, resp.Topics[0].Partitions, 3)
		next := func(epoch, wait int32) *kmsg.FetchRequest {
			req := fetchFrom("t", id, 0, 0, 1, wait)
			req.Topics, req.SessionID, req.SessionEpoch = nil, resp.SessionID, epoch
			return req
		}
		told := func(req *kmsg.FetchRequest) map[int32]kmsg.FetchResponseTopicPartition {
			c.send(req, v)
			out := map[int32]kmsg.FetchResponseTopicPartition{}
			answer := c.receiveAny(req).(*kmsg.FetchResponse)
			require.Zero(t, answer.ErrorCode)
			for _, topic := range answer.Topics {
				for _, p := range topic.Partitions {
					out[p.Partition] = p
				}
			}
			return out
		}
		got := told(next(1, 60_000))
		require.Len(t, got, 1, "an error is told each time, and ends the wait")
		require.Equal(t, kerr.NotLeaderForPartition.Code, got[2].ErrorCode)
		forget := next(2, 0)
		ft := kmsg.NewFetchRequestForgottenTopic()
		ft.Topic, ft.TopicID, ft.Partitions = "t", id, []int32{2}
		forget.ForgottenTopics = append(forget.ForgottenTopics, ft)
		require.Empty(t, told(forget))
		// It waits, and is woken.
		wait := next(3, 60_000)
		c.send(wait, v)
		require.Zero(t, produced(other, produceTo("t", id, -1, 5000, 1, someBatch("a")), 9).ErrorCode)
		answer := c.receiveAny(wait).(*kmsg.FetchResponse)
		require.Len(t, answer.Topics, 1)
		require.EqualValues(t, 1, answer.Topics[0].Partitions[0].Partition)
		require.NotEmpty(t, answer.Topics[0].Partitions[0].RecordBatches)
		require.Len(t, told(next(4, 0)), 1, "not asked beyond: again")
	}
}

func inRacks(racks ...string) *metadata.Image {
	e := metadata.Empty().Edit()
	for i, rack := range racks {
		e.PutBroker(&metadata.Broker{ID: int32(i + 1), Rack: rack, Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT", Host: "h", Port: 1}}})
	}
	img, _ := e.Commit(1)
	return img
}

func TestPreferredReplica(t *testing.T) {
	followers := []replica.FollowerState{{ID: 2, LogEnd: 50, InSync: true}, {ID: 3, LogEnd: 90, InSync: true}, {ID: 4, LogEnd: 99}}
	for name, c := range map[string]struct {
		img      *metadata.Image
		rack     string
		listener string
		from     record.Offset
		want     int32
	}{
		"the leader's own rack":      {inRacks("a", "a", "a", "a"), "a", "PLAINTEXT", 0, -1},
		"nobody there":               {inRacks("a", "b", "b", "b"), "c", "PLAINTEXT", 0, -1},
		"one there":                  {inRacks("a", "b", "c", "c"), "b", "PLAINTEXT", 50, 2},
		"too far behind":             {inRacks("a", "b", "c", "c"), "b", "PLAINTEXT", 51, -1},
		"the farthest of those":      {inRacks("a", "b", "b", "b"), "b", "PLAINTEXT", 0, 3},
		"not in sync":                {inRacks("a", "a", "a", "b"), "b", "PLAINTEXT", 0, -1},
		"not on that listener":       {inRacks("a", "b", "b", "b"), "b", "OTHER", 0, -1},
		"the leader is not known":    {metadata.Empty(), "b", "PLAINTEXT", 0, -1},
		"a follower that is unknown": {inRacks("a", "a"), "b", "PLAINTEXT", 0, -1},
	} {
		require.Equal(t, c.want, preferredReplica(c.img, 1, c.rack, c.listener, c.from, followers), name)
	}
	e := inRacks("a", "b", "b").Edit()
	e.PutBroker(&metadata.Broker{ID: 3, Rack: "b", Fenced: true, Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT"}}})
	img, _ := e.Commit(2)
	require.EqualValues(t, 2, preferredReplica(img, 1, "b", "PLAINTEXT", 0, followers), "fenced")
}

// A consumer in a follower's rack is sent there, at once and without records; one
// that sends no rack, or speaks a version that cannot be told, reads here.
func TestConsumersAreSentToTheirRack(t *testing.T) {
	b := startData(t, configured{"replica.selector.class": configdef.RackAwareSelector})
	b.edit(func(e *metadata.Editor) {
		for id, rack := range map[int32]string{1: "a", 2: "b"} {
			e.PutBroker(&metadata.Broker{ID: id, Rack: rack, Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT", Host: "h", Port: 9092}}})
		}
	})
	id := b.topic("t", nil, onBrokers(1, 2))
	c, peer := b.dial(), b.dialPeer(2)
	require.Zero(t, produced(c, produceTo("t", id, 1, 5000, 0, someBatch("a", "b")), 9).ErrorCode)
	fetchOne(peer, followerFetch("t", id, 2), 17) // it has them
	eachVersion(t, 1, func(t *testing.T, v int16) {
		for rack, sent := range map[string]bool{"a": false, "b": v >= 11, "": false} {
			req := fetchFrom("t", id, 0, 0, 1, 60_000)
			req.Rack = rack
			begin := time.Now()
			p := fetchOne(c, req, v)
			require.Zero(t, p.ErrorCode)
			if sent {
				require.EqualValues(t, 2, p.PreferredReadReplica)
				require.Empty(t, p.RecordBatches)
			} else {
				require.EqualValues(t, -1, p.PreferredReadReplica)
				require.NotEmpty(t, p.RecordBatches)
			}
			require.Less(t, time.Since(begin), 30*time.Second)
		}
	})
}

// A follower serves consumers what it knows to be committed, and says of the rest
// that it is not there yet, never that it does not exist.
func TestConsumersReadFollowers(t *testing.T) {
	b := startData(t)
	id := b.topic("t", nil, onBrokers(1, 2))
	c, peer := b.dial(), b.dialPeer(2)
	require.Zero(t, produced(c, produceTo("t", id, 1, 5000, 0, someBatch("a", "b")), 9).ErrorCode)
	commits(t, peer, followerFetch("t", id, 2), 2)
	require.Zero(t, produced(c, produceTo("t", id, 1, 5000, 0, someBatch("c")), 9).ErrorCode)
	b.edit(func(e *metadata.Editor) {
		p := onBrokers(1, 2)
		p.Leader, p.LeaderEpoch, p.PartitionEpoch = 2, 4, 1
		e.PutPartition(record.TopicPartition{Topic: id}, &p)
	})
	eachVersion(t, 1, func(t *testing.T, v int16) {
		if v < 11 {
			require.Equal(t, kerr.NotLeaderForPartition.Code, fetchOne(c, fetchFrom("t", id, 0, 0, 1, 0), v).ErrorCode)
			return
		}
		p := fetchOne(c, fetchFrom("t", id, 0, 0, 1, 0), v)
		require.Zero(t, p.ErrorCode)
		require.EqualValues(t, 2, p.HighWatermark)
		batches := 0
		for _, err := range record.Batches(p.RecordBatches) {
			require.NoError(t, err)
			batches++
		}
		require.Equal(t, 1, batches, "the other is not committed, as far as it knows")
		require.Zero(t, fetchOne(c, fetchFrom("t", id, 0, 2, 1, 0), v).ErrorCode)
		require.Equal(t, kerr.OffsetNotAvailable.Code, fetchOne(c, fetchFrom("t", id, 0, 100, 1, 0), v).ErrorCode)
		require.Equal(t, kerr.OffsetOutOfRange.Code, fetchOne(c, fetchFrom("t", id, 0, -1, 1, 0), v).ErrorCode)
		stale := fetchFrom("t", id, 0, 0, 1, 0)
		stale.Topics[0].Partitions[0].CurrentLeaderEpoch = 3
		require.Equal(t, kerr.FencedLeaderEpoch.Code, fetchOne(c, stale, v).ErrorCode)
	})
}

// leader.replication.throttled.replicas and its rate hold back a follower that is
// not in sync, until it is, or the rate is gone (KIP-73).
func TestLeadersThrottle(t *testing.T) {
	b := startData(t)
	outOfSync := onBrokers(1, 2)
	outOfSync.ISR = []int32{1}
	id := b.topic("t", map[string]string{"leader.replication.throttled.replicas": "0:1"}, outOfSync)
	rate := func(value string) {
		b.edit(func(e *metadata.Editor) {
			e.SetConfigs(metadata.ConfigResource{Kind: metadata.ResourceBroker, Name: "1"},
				map[string]string{"leader.replication.throttled.rate": value})
		})
	}
	rate("10")
	c, peer := b.dial(), b.dialPeer(2)
	require.Zero(t, produced(c, produceTo("t", id, -1, 5000, 0, someBatch(string(make([]byte, 100_000)))), 9).ErrorCode)
	sent := func() bool {
		p := fetchOne(peer, followerFetch("t", id, 0), 17)
		require.Zero(t, p.ErrorCode)
		require.EqualValues(t, 1, p.HighWatermark)
		return len(p.RecordBatches) > 0
	}
	require.True(t, sent(), "the first second's worth may be overdrawn")
	require.False(t, sent(), "by hours")
	rate("9223372036854775807")
	require.True(t, sent())
	rate("10")
	require.True(t, sent())
	require.False(t, sent())
	b.edit(func(e *metadata.Editor) {
		next := onBrokers(1, 2)
		next.PartitionEpoch = 1
		e.PutPartition(record.TopicPartition{Topic: id}, &next)
	})
	require.True(t, sent(), "in sync")
	counted := b.set.Totals()
	require.Equal(t, 4*counted.BytesIn, counted.ReplicaOut)
	require.Zero(t, counted.BytesOut, "no client has read")

	require.True(t, throttles([]string{"*"}, 3, 1))
	require.True(t, throttles([]string{"0:2", "3:1"}, 3, 1))
	require.False(t, throttles([]string{"0:1", "3:2"}, 3, 1))
}
