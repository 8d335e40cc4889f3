package api

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// withoutDisk makes topic t with one partition, led here, whose log cannot be opened:
// a file lies where its directory should.
func (b *dataBroker) withoutDisk() record.TopicID {
	tp := record.TopicPartition{Topic: record.NewTopicID()}
	dir := b.set.Dir().PathOf(tp)
	require.NoError(b.t, b.fs.MkdirAll(b.fs.PathDir(dir), 0o755))
	f, err := b.fs.Create(dir, "test")
	require.NoError(b.t, err)
	require.NoError(b.t, f.Close())
	b.edit(func(e *metadata.Editor) {
		e.PutTopic(&metadata.Topic{ID: tp.Topic, Name: "t", Partitions: 1})
		state := onBrokers(1)
		e.PutPartition(tp, &state)
	})
	require.Contains(b.t, b.set.Failed(), tp)
	return tp.Topic
}

// A partition that is here but whose log could not be opened is not elsewhere: to
// answer NOT_LEADER_OR_FOLLOWER sent clients to look for a leader, and they were
// told to come here again.
func TestAPartitionThatDidNotOpenAnswersStorageError(t *testing.T) {
	b := startData(t)
	id := b.withoutDisk()
	c := b.dial()
	want := kerr.KafkaStorageError.Code
	eachVersion(t, 0, func(t *testing.T, v int16) {
		resp := ask[*kmsg.ProduceResponse](c, produceTo("t", id, -1, 5000, 0, someBatch("a")), v)
		require.Equal(t, want, resp.Topics[0].Partitions[0].ErrorCode)
		require.Empty(t, resp.Brokers)
	})
	eachVersion(t, 1, func(t *testing.T, v int16) {
		req := fetchFrom("t", id, 0, 0, 1, 60_000)
		c.send(req, v)
		require.Equal(t, want, c.receiveAny(req).(*kmsg.FetchResponse).Topics[0].Partitions[0].ErrorCode, "at once")
	})
	eachVersion(t, 2, func(t *testing.T, v int16) {
		require.Equal(t, want, listed(c, "t", 0, -1, -1, v).ErrorCode)
	})
	eachVersion(t, 21, func(t *testing.T, v int16) {
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.TimeoutMillis = 5000
		rt := kmsg.NewDeleteRecordsRequestTopic()
		rt.Topic = "t"
		rp := kmsg.NewDeleteRecordsRequestTopicPartition()
		rp.Offset = -1
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		require.Equal(t, want, ask[*kmsg.DeleteRecordsResponse](c, req, v).Topics[0].Partitions[0].ErrorCode)
	})
	eachVersion(t, 23, func(t *testing.T, v int16) {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.ReplicaID = -1
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = "t"
		rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		rp.CurrentLeaderEpoch = -1
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		require.Equal(t, want, ask[*kmsg.OffsetForLeaderEpochResponse](c, req, v).Topics[0].Partitions[0].ErrorCode)
	})
}
