package main

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func listing(name string, epoch int32, timestamps ...int64) *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = name
	for i, ts := range timestamps {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp, p.CurrentLeaderEpoch = int32(i), ts, epoch
		rt.Partitions = append(rt.Partitions, p)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

func listOffsets(s *script) {
	t := s.filled("listed", 2, 3)
	empty, _ := s.topic("listed-empty", 2)
	for _, ts := range []int64{-1, -2, -3, -4, -5, -6, -7, -99, 0, longAgo, longAgo + 1, longAgo + 2, longAgo + 3, 1 << 60} {
		for v := int16(1); v <= 11; v++ {
			s.ask(fmt.Sprintf("timestamp %d", ts), v, listing(t.name, -1, ts, -2))
		}
		s.ask(fmt.Sprintf("empty, timestamp %d", ts), 11, listing(empty, -1, ts))
		s.ask(fmt.Sprintf("empty, timestamp %d", ts), 10, listing(empty, -1, ts))
		committed := listing(t.name, -1, ts)
		committed.IsolationLevel = 1
		s.ask(fmt.Sprintf("committed, timestamp %d", ts), 9, committed)
	}
	for v := int16(1); v <= 11; v++ {
		s.ask("unknown topic", v, listing(s.name("nothing"), -1, -1))
		s.ask("unknown partition", v, listing(t.name, -1, -1, -1, -1))
		s.ask("epoch too new", v, listing(t.name, 9, -1, longAgo))
		s.ask("epoch", v, listing(t.name, 0, -1))
	}
	twice := listing(t.name, -1, -1, -2)
	twice.Topics[0].Partitions[1].Partition = 0
	s.ask("partition twice", 9, twice)
	across := listing(t.name, -1, -1)
	across.Topics = append(across.Topics, listing(t.name, -1, -2).Topics...)
	s.ask("partition twice in two topics", 9, across)
	for _, replica := range []int32{-2, -3, 1, 7} {
		req := listing(t.name, -1, -1, longAgo)
		req.ReplicaID = replica
		s.ask(fmt.Sprintf("replica %d", replica), 9, req)
	}
	none := listing(t.name, -1)
	none.Topics = nil
	s.ask("nothing", 9, none)
}

func epochs(s *script) {
	t := s.filled("epochs", 1, 2)
	asking := func(name string, partition, current, epoch int32) *kmsg.OffsetForLeaderEpochRequest {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.ReplicaID = -1
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = name
		p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = partition, current, epoch
		rt.Partitions = append(rt.Partitions, p)
		req.Topics = append(req.Topics, rt)
		return req
	}
	for v := int16(2); v <= 4; v++ {
		s.ask("current", v, asking(t.name, 0, -1, 0))
		s.ask("current, known", v, asking(t.name, 0, 0, 0))
		s.ask("too new", v, asking(t.name, 0, -1, 5))
		s.ask("none", v, asking(t.name, 0, -1, -1))
		s.ask("ahead of the leader", v, asking(t.name, 0, 5, 0))
		s.ask("unknown partition", v, asking(t.name, 9, -1, 0))
		s.ask("unknown topic", v, asking(s.name("nothing"), 0, -1, 0))
	}
	empty, _ := s.topic("epochs-empty", 1)
	s.ask("of an empty partition", 4, asking(empty, 0, -1, 0))
}

func deleteRecords(s *script) {
	t := s.filled("trimmed", 2, 3)
	deleting := func(name string, offsets ...int64) *kmsg.DeleteRecordsRequest {
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.TimeoutMillis = 30_000
		rt := kmsg.NewDeleteRecordsRequestTopic()
		rt.Topic = name
		for i, o := range offsets {
			p := kmsg.NewDeleteRecordsRequestTopicPartition()
			p.Partition, p.Offset = int32(i), o
			rt.Partitions = append(rt.Partitions, p)
		}
		req.Topics = append(req.Topics, rt)
		return req
	}
	for v := int16(0); v <= 2; v++ {
		s.ask("up to", v, deleting(t.name, 2+int64(v)))
	}
	s.ask("behind the log start", 2, deleting(t.name, 1))
	s.ask("past the end", 2, deleting(t.name, 99))
	s.ask("negative", 2, deleting(t.name, -2))
	s.ask("unknown partition", 2, deleting(t.name, 0, 0, 0))
	s.ask("unknown topic", 2, deleting(s.name("nothing"), 0))
	s.ask("internal topic", 2, deleting("__consumer_offsets", 0))
	compacted, id := s.topic("trimmed-compacted", 1, "cleanup.policy", "compact")
	s.write(target{compacted, id}, 0, batchOf(plainBatch(), "a"))
	s.ask("compacted topic", 2, deleting(compacted, 1))
	both, id := s.topic("trimmed-both", 1, "cleanup.policy", "compact,delete")
	s.write(target{both, id}, 0, batchOf(plainBatch(), "a"))
	s.ask("compacted and deleted topic", 2, deleting(both, 1))
	s.ask("fetch below the log start", 12, fetching(12, t, 0))
	s.ask("fetch at the log start", 12, fetching(12, t, 4))
	s.ask("earliest", 9, listing(t.name, -1, -2))
	s.ask("by time below the log start", 9, listing(t.name, -1, 0))
	s.ask("one good, one bad", 2, deleting(t.name, 5, 99))
	s.ask("all", 2, deleting(t.name, -1))
	s.ask("all again", 2, deleting(t.name, -1))
	s.ask("fetch after all", 12, fetching(12, t, 9))
	twice := deleting(t.name, 0, 1)
	twice.Topics[0].Partitions[0].Partition = 1
	twice.Topics[0].Partitions[0].Offset = 2
	s.ask("partition twice", 2, twice)
}

func logDirs(s *script) {
	t := s.filled("sized", 2, 1)
	asking := func(name string, partitions ...int32) *kmsg.DescribeLogDirsRequest {
		req := kmsg.NewPtrDescribeLogDirsRequest()
		rt := kmsg.NewDescribeLogDirsRequestTopic()
		rt.Topic, rt.Partitions = name, partitions
		req.Topics = append(req.Topics, rt)
		return req
	}
	s.each("one topic", 1, 5, func(int16) kmsg.Request { return asking(t.name, 0, 1) })
	s.ask("one partition", 4, asking(t.name, 1))
	s.ask("unknown partition", 4, asking(t.name, 5))
	s.ask("unknown topic", 4, asking(s.name("nothing"), 0))
	none := kmsg.NewPtrDescribeLogDirsRequest()
	none.Topics = []kmsg.DescribeLogDirsRequestTopic{}
	s.ask("no topic", 4, none)
}
