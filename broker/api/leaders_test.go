package api

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// threeBrokers is broker 1 beside another that lives, one that is fenced, and one
// that is not on the clients' listener. Topic t has a partition led by each of the
// living, one without a leader, one whose leader no one knows, and one not on the
// listener.
func threeBrokers(t *testing.T) (*dataBroker, record.TopicID) {
	b := startData(t)
	plain := []metadata.Endpoint{{Listener: "PLAINTEXT", Host: "h", Port: 9092}}
	b.edit(func(e *metadata.Editor) {
		e.PutBroker(&metadata.Broker{ID: 1, Rack: "a", Endpoints: plain})
		e.PutBroker(&metadata.Broker{ID: 2, Rack: "b", Endpoints: plain})
		e.PutBroker(&metadata.Broker{ID: 3, Endpoints: plain, Fenced: true})
		e.PutBroker(&metadata.Broker{ID: 4, Endpoints: []metadata.Endpoint{{Listener: "INTERNAL", Host: "h", Port: 1}}})
	})
	part := func(leader int32, isr ...int32) metadata.Partition {
		return metadata.Partition{Replicas: []int32{1, 2, 3}, ISR: isr, Leader: leader, LeaderEpoch: 5, RemoteEpoch: -1, LastKnownLeader: -1}
	}
	none := part(-1, 3)
	none.LastKnownLeader = 3
	there := part(4, 4)
	there.Replicas = []int32{4, 1}
	return b, b.topic("t", nil, part(1, 1, 2), part(2, 2, 1), none, part(9, 9), there)
}

func TestMetadataOfACluster(t *testing.T) {
	b, _ := threeBrokers(t)
	c := b.dial()
	eachVersion(t, 3, func(t *testing.T, v int16) {
		req := kmsg.NewPtrMetadataRequest()
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr("t")
		req.Topics = append(req.Topics, rt)
		resp := ask[*kmsg.MetadataResponse](c, req, v)
		var ids []int32
		for _, k := range resp.Brokers {
			ids = append(ids, k.NodeID)
		}
		require.ElementsMatch(t, []int32{1, 2}, ids, "neither the fenced one nor that of another listener")
		if v >= 1 {
			require.Contains(t, ids, resp.ControllerID)
		}
		require.Zero(t, resp.Topics[0].ErrorCode)
		parts := resp.Topics[0].Partitions
		require.Len(t, parts, 5, "a partition never vanishes")
		listener := kerr.ListenerNotFound.Code
		if v < 6 {
			listener = kerr.LeaderNotAvailable.Code
		}
		lacking := int16(0)
		if v == 0 {
			lacking = kerr.ReplicaNotAvailable.Code
		}
		for n, want := range []struct {
			leader  int32
			code    int16
			offline []int32
		}{
			{1, lacking, []int32{3}}, {2, lacking, []int32{3}}, {-1, kerr.LeaderNotAvailable.Code, []int32{3}},
			{-1, kerr.LeaderNotAvailable.Code, []int32{3}}, {-1, listener, []int32{4}},
		} {
			p := parts[n]
			require.Equal(t, want.leader, p.Leader, n)
			require.Equal(t, want.code, p.ErrorCode, n)
			if v >= 5 {
				require.Equal(t, want.offline, p.OfflineReplicas, n)
			}
			if v >= 7 {
				require.EqualValues(t, 5, p.LeaderEpoch, "it never goes back")
			}
			if v == 0 {
				require.NotContains(t, p.Replicas, want.offline[0], n)
			} else if n < 4 {
				require.Equal(t, []int32{1, 2, 3}, p.Replicas, n)
			}
		}
	})
	described := kmsg.NewPtrDescribeTopicPartitionsRequest()
	described.ResponsePartitionLimit = 100
	parts := ask[*kmsg.DescribeTopicPartitionsResponse](c, described, 0).Topics[0].Partitions
	require.Equal(t, kerr.LeaderNotAvailable.Code, parts[2].ErrorCode)
	require.Equal(t, []int32{3}, parts[2].LastKnownELR)
	require.Equal(t, kerr.ListenerNotFound.Code, parts[4].ErrorCode)
	require.Equal(t, []int32{4}, parts[4].OfflineReplicas)
}

// The controller that clients are told of is a broker that they can reach, also
// while who leads the metadata is fenced, and while this broker is.
func TestControllerIsReachable(t *testing.T) {
	b, _ := threeBrokers(t)
	c := b.dial()
	controller := func() int32 {
		resp := ask[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 12)
		require.Equal(t, resp.ControllerID, ask[*kmsg.DescribeClusterResponse](c, kmsg.NewPtrDescribeClusterRequest(), 0).ControllerID)
		return resp.ControllerID
	}
	for leads, want := range map[int32]int32{1: 1, 2: 2, 3: 1, 4: 1, 7: 1, -1: 1} {
		b.meta.mu.Lock()
		b.meta.img = b.meta.img.WithController(leads)
		b.meta.mu.Unlock()
		require.Equal(t, want, controller(), "the metadata's leader is %d", leads)
	}
	fence := func(id int32) {
		b.edit(func(e *metadata.Editor) {
			next := *b.meta.Image().Broker(id)
			next.Fenced = true
			e.PutBroker(&next)
		})
	}
	fence(1)
	require.EqualValues(t, 2, controller())
	fence(2)
	require.EqualValues(t, -1, controller())
}

// Produce, Fetch and ListOffsets of partitions that are led elsewhere, or by
// nobody, are refused so that clients look for the leader; who is told where it is
// gets the leader's address if it can be reached.
func TestLeadersElsewhere(t *testing.T) {
	b, id := threeBrokers(t)
	c := b.dial()
	for n, want := range map[int32]struct {
		leader int32
		told   bool
	}{1: {2, true}, 2: {-1, false}, 3: {9, false}, 4: {4, false}} {
		eachVersion(t, 0, func(t *testing.T, v int16) {
			resp := ask[*kmsg.ProduceResponse](c, produceTo("t", id, -1, 5000, n, someBatch("a")), v)
			p := resp.Topics[0].Partitions[0]
			require.Equal(t, kerr.NotLeaderForPartition.Code, p.ErrorCode)
			if v < 10 {
				require.EqualValues(t, -1, p.CurrentLeader.LeaderID)
				return
			}
			require.Equal(t, want.leader, p.CurrentLeader.LeaderID)
			require.EqualValues(t, 5, p.CurrentLeader.LeaderEpoch)
			require.Equal(t, want.told, len(resp.Brokers) == 1)
			if want.told {
				require.Equal(t, want.leader, resp.Brokers[0].NodeID)
				require.Equal(t, "b", *resp.Brokers[0].Rack)
			}
		})
		eachVersion(t, 1, func(t *testing.T, v int16) {
			req := fetchFrom("t", id, n, 0, 1, 60_000)
			req.Topics[0].Partitions[0].CurrentLeaderEpoch = 4 // from an earlier leader
			c.send(req, v)
			resp := c.receiveAny(req).(*kmsg.FetchResponse)
			p := resp.Topics[0].Partitions[0]
			code := kerr.FencedLeaderEpoch.Code
			if v < 9 {
				code = kerr.NotLeaderForPartition.Code
			}
			require.Equal(t, code, p.ErrorCode)
			if v >= 12 {
				require.Equal(t, want.leader, p.CurrentLeader.LeaderID)
				require.EqualValues(t, 5, p.CurrentLeader.LeaderEpoch)
			}
			if v >= 16 {
				require.Equal(t, want.told, len(resp.Brokers) == 1)
			}
		})
		eachVersion(t, 2, func(t *testing.T, v int16) {
			require.Equal(t, kerr.NotLeaderForPartition.Code, listed(c, "t", n, -1, -1, v).ErrorCode)
		})
		eachVersion(t, 23, func(t *testing.T, v int16) {
			req := kmsg.NewPtrOffsetForLeaderEpochRequest()
			req.ReplicaID = -1
			rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
			rt.Topic = "t"
			rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			rp.Partition, rp.CurrentLeaderEpoch, rp.LeaderEpoch = n, -1, 5
			rt.Partitions = append(rt.Partitions, rp)
			req.Topics = append(req.Topics, rt)
			p := ask[*kmsg.OffsetForLeaderEpochResponse](c, req, v).Topics[0].Partitions[0]
			require.Equal(t, kerr.NotLeaderForPartition.Code, p.ErrorCode)
			require.EqualValues(t, -1, p.EndOffset)
		})
	}
}

// listed asks ListOffsets for one partition.
func listed(c *groupClient, topic string, n int32, ts int64, replica int32, v int16) kmsg.ListOffsetsResponseTopicPartition {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = replica
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = n, ts, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return ask[*kmsg.ListOffsetsResponse](c, req, v).Topics[0].Partitions[0]
}

// The leader that an error names is never of an older epoch than the metadata has.
func TestCurrentLeaderIsTheNewestKnown(t *testing.T) {
	b := startData(t)
	id := b.topic("t", nil, onBrokers(1, 2))
	tp := record.TopicPartition{Topic: id}
	here := b.set.Get(tp)
	old := b.meta.Image()
	e := old.Edit()
	next := onBrokers(1, 2)
	next.Leader, next.LeaderEpoch = 2, 9
	e.PutPartition(tp, &next)
	img, _ := e.Commit(old.Index() + 1)
	b.meta.mu.Lock()
	b.meta.img = img // and the partition has not heard of it
	b.meta.mu.Unlock()
	leader, epoch := b.api.currentLeader(tp, here)
	require.EqualValues(t, 2, leader)
	require.EqualValues(t, 9, epoch)
	leader, epoch = b.api.currentLeader(record.TopicPartition{Topic: record.NewTopicID()}, nil)
	require.EqualValues(t, -1, leader)
	require.EqualValues(t, -1, epoch)
}

// A group whose coordinator cannot be reached has none for now.
func TestCoordinatorsThatCannotBeReached(t *testing.T) {
	b := startData(t)
	plain := []metadata.Endpoint{{Listener: "PLAINTEXT", Host: "h", Port: 9092}}
	topic := record.NewTopicID()
	leaders := []int32{1, 2, -1, 4}
	b.edit(func(e *metadata.Editor) {
		e.PutBroker(&metadata.Broker{ID: 2, Endpoints: plain})
		e.PutBroker(&metadata.Broker{ID: 4, Endpoints: []metadata.Endpoint{{Listener: "INTERNAL", Host: "h", Port: 1}}})
		e.PutTopic(&metadata.Topic{ID: topic, Name: offsetsTopic, Partitions: int32(len(leaders)), Internal: true})
		for n, leader := range leaders {
			p := onBrokers(2)
			p.Leader = leader
			e.PutPartition(record.TopicPartition{Topic: topic, Partition: int32(n)}, &p)
		}
	})
	c := b.dial()
	seen := map[int32]bool{}
	for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		leader := leaders[group.PartitionFor(key, int32(len(leaders)))]
		seen[leader] = true
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorKey, req.CoordinatorKeys = key, []string{key}
		eachVersion(t, 10, func(t *testing.T, v int16) {
			resp := ask[*kmsg.FindCoordinatorResponse](c, req, v)
			id, code := resp.NodeID, resp.ErrorCode
			if v >= 4 {
				id, code = resp.Coordinators[0].NodeID, resp.Coordinators[0].ErrorCode
			}
			if leader == 1 || leader == 2 {
				require.Zero(t, code)
				require.Equal(t, leader, id)
			} else {
				require.Equal(t, kerr.CoordinatorNotAvailable.Code, code)
			}
		})
	}
	require.Len(t, seen, 4)
}
