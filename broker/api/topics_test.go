package api

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// What is asked for twice, by name, by id or by both, is refused and answered
// once; the others are deleted all the same.
func TestDeletions(t *testing.T) {
	a, b := record.NewTopicID(), record.NewTopicID()
	e := metadata.Empty().Edit()
	e.PutTopic(&metadata.Topic{ID: a, Name: "a", Partitions: 1})
	e.PutTopic(&metadata.Topic{ID: b, Name: "b", Partitions: 1})
	img, _ := e.Commit(1)
	type ask struct {
		name string
		id   record.TopicID
	}
	none, invalid := int16(0), kerr.InvalidRequest.Code
	for name, c := range map[string]struct {
		asks []ask
		want []int16
	}{
		"by name":         {[]ask{{name: "a"}}, []int16{none}},
		"by id":           {[]ask{{id: a}}, []int16{none}},
		"both":            {[]ask{{"a", a}}, []int16{invalid}},
		"neither":         {[]ask{{}}, []int16{invalid}},
		"name twice":      {[]ask{{name: "a"}, {name: "b"}, {name: "a"}}, []int16{invalid, none}},
		"id twice":        {[]ask{{id: a}, {id: a}}, []int16{invalid}},
		"name and its id": {[]ask{{name: "a"}, {id: a}, {id: b}}, []int16{invalid, none}},
		"unknown":         {[]ask{{name: "c"}, {id: record.TopicID{7}}}, []int16{kerr.UnknownTopicOrPartition.Code, kerr.UnknownTopicID.Code}},
	} {
		t.Run(name, func(t *testing.T) {
			req := kmsg.NewPtrDeleteTopicsRequest()
			for _, x := range c.asks {
				rt := kmsg.NewDeleteTopicsRequestTopic()
				rt.TopicID = x.id
				if x.name != "" {
					rt.Topic = &x.name
				}
				req.Topics = append(req.Topics, rt)
			}
			var got []int16
			for _, k := range deletions(img, req) {
				got = append(got, k.ErrorCode)
				if k.ErrorCode == 0 {
					require.Equal(t, img.Topic(k.TopicID).Name, *k.Topic)
				}
			}
			require.Equal(t, c.want, got)
		})
	}
}

// Pages of any size, one after the other by their cursors, are the whole list.
func TestDescribeTopicPartitionsPages(t *testing.T) {
	b := startData(t)
	for name, n := range map[string]int{"b": 4, "a": 3, "c": 1} {
		states := make([]metadata.Partition, n)
		for i := range states {
			states[i] = onBrokers(1)
		}
		b.topic(name, nil, states...)
	}
	c := b.dial()
	whole := []string{"a0", "a1", "a2", "b0", "b1", "b2", "b3", "c0", "no!"}
	for _, limit := range []int32{-1, 0, 1, 2, 3, 4, 7, 8, 9, 2000} {
		var got []string
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.ResponsePartitionLimit = limit
		for _, name := range []string{"no", "c", "a", "b"} {
			rt := kmsg.NewDescribeTopicPartitionsRequestTopic()
			rt.Topic = name
			req.Topics = append(req.Topics, rt)
		}
		for range 20 {
			resp := ask[*kmsg.DescribeTopicPartitionsResponse](c, req, 0)
			n := 0
			for _, topic := range resp.Topics {
				if topic.ErrorCode != 0 {
					require.Equal(t, kerr.UnknownTopicOrPartition.Code, topic.ErrorCode)
					got = append(got, *topic.Topic+"!")
				}
				for _, p := range topic.Partitions {
					got = append(got, *topic.Topic+string('0'+p.Partition))
					n++
				}
			}
			require.LessOrEqual(t, n, int(max(limit, 1)))
			if resp.NextCursor == nil {
				break
			}
			cursor := kmsg.NewDescribeTopicPartitionsRequestCursor()
			cursor.Topic, cursor.Partition = resp.NextCursor.Topic, resp.NextCursor.Partition
			req.Cursor = &cursor
		}
		require.Equal(t, whole, got, "limit %d", limit)
	}
}

// delete.topic.enable=false refuses what could be deleted, and nothing hides
// another mistake.
func TestDeletionsRefused(t *testing.T) {
	for version, want := range map[int16]int16{2: kerr.InvalidRequest.Code, 3: kerr.TopicDeletionDisabled.Code, 6: kerr.TopicDeletionDisabled.Code} {
		ok, unknown := kmsg.NewDeleteTopicsResponseTopic(), kmsg.NewDeleteTopicsResponseTopic()
		unknown.ErrorCode = kerr.UnknownTopicOrPartition.Code
		topics := []kmsg.DeleteTopicsResponseTopic{ok, unknown}
		refuseDeletions(topics, version)
		require.Equal(t, want, topics[0].ErrorCode, "version %d", version)
		require.Equal(t, kerr.UnknownTopicOrPartition.Code, topics[1].ErrorCode)
	}
}
