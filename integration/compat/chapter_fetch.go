package main

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fetching asks for records of one partition, without a session.
func fetching(version int16, t target, from int64, partitions ...int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.ReplicaState.ID = -1, -1
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 0, 1, 10<<20
	req.SessionEpoch = -1
	rt := kmsg.NewFetchRequestTopic()
	if version < 13 {
		rt.Topic = t.name
	} else {
		rt.TopicID = t.id
	}
	if len(partitions) == 0 {
		partitions = []int32{0}
	}
	for _, n := range partitions {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = n, from, 1<<20
		p.CurrentLeaderEpoch, p.LastFetchedEpoch, p.LogStartOffset = -1, -1, -1
		rt.Partitions = append(rt.Partitions, p)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

// filled makes a topic with some batches in each partition.
func (s *script) filled(base string, partitions int32, batches int) target {
	var t target
	t.name, t.id = s.topic(base, partitions)
	for i := range batches {
		for p := range partitions {
			s.write(t, p, batchOf(plainBatch(), fmt.Sprintf("%d in %d", i, p), "second", "third"))
		}
	}
	return t
}

// write appends a batch, and tries again while the partition is not ready:
// Kafka's metadata runs ahead of its logs.
func (s *script) write(t target, partition int32, batch []byte) {
	req := producing(t, -1, batch)
	req.Topics[0].Partitions[0].Partition = partition
	s.until(9, req, func(r kmsg.Response) bool { return r.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode == 0 })
}

func fetchRecords(s *script) {
	t := s.filled("read", 2, 3)
	s.each("from the start", 4, 18, func(v int16) kmsg.Request { return fetching(v, t, 0, 0, 1) })
	s.each("from the middle of a batch", 4, 18, func(v int16) kmsg.Request { return fetching(v, t, 4) })
	s.each("at the end", 4, 18, func(v int16) kmsg.Request { return fetching(v, t, 9) })
	s.each("committed", 4, 18, func(v int16) kmsg.Request {
		req := fetching(v, t, 0)
		req.IsolationLevel = 1
		return req
	})
	small := func(v int16, partition, total int32) *kmsg.FetchRequest {
		req := fetching(v, t, 0, 0, 1)
		req.MaxBytes = total
		for i := range req.Topics[0].Partitions {
			req.Topics[0].Partitions[i].PartitionMaxBytes = partition
		}
		return req
	}
	for _, v := range []int16{4, 12, 17} {
		s.ask("one byte", v, small(v, 1, 1))
		s.ask("one byte a partition", v, small(v, 1, 1<<20))
		s.ask("one byte in all", v, small(v, 1<<20, 1))
		s.ask("zero bytes", v, small(v, 0, 0))
		s.ask("negative bytes", v, small(v, -1, -1))
		s.ask("one batch and a half", v, small(v, 150, 1<<20))
		wait := fetching(v, t, 9)
		wait.MaxWaitMillis, wait.MinBytes = 100, 1
		s.ask("waits in vain", v, wait)
		eager := fetching(v, t, 9)
		eager.MaxWaitMillis, eager.MinBytes = 20_000, 0
		s.ask("wants nothing", v, eager)
		wrong := fetching(v, t, 99)
		wrong.MaxWaitMillis = 20_000
		s.ask("an error ends the wait", v, wrong)
	}
	s.ask("no topic", 12, func() kmsg.Request { r := fetching(12, t, 0); r.Topics = nil; return r }())
	unknown := fetching(12, t, 0)
	unknown.IsolationLevel = 7
	s.ask("isolation level 7", 12, unknown)
}

func fetchErrors(s *script) {
	t := s.filled("misread", 1, 2)
	nothing := target{s.name("nothing"), unknownID}
	s.each("out of range", 4, 18, func(v int16) kmsg.Request { return fetching(v, t, 99) })
	s.each("negative offset", 4, 18, func(v int16) kmsg.Request { return fetching(v, t, -5) })
	s.each("unknown topic", 4, 18, func(v int16) kmsg.Request { return fetching(v, nothing, 0) })
	s.each("unknown partition", 4, 18, func(v int16) kmsg.Request { return fetching(v, t, 0, 5) })
	s.each("negative partition", 4, 18, func(v int16) kmsg.Request { return fetching(v, t, 0, -1) })
	s.each("epoch too new", 9, 18, func(v int16) kmsg.Request {
		req := fetching(v, t, 0)
		req.Topics[0].Partitions[0].CurrentLeaderEpoch = 50
		return req
	})
	s.each("current epoch", 9, 18, func(v int16) kmsg.Request {
		req := fetching(v, t, 0)
		req.Topics[0].Partitions[0].CurrentLeaderEpoch = 0
		return req
	})
	s.each("last fetched epoch too new", 12, 18, func(v int16) kmsg.Request {
		req := fetching(v, t, 3)
		req.Topics[0].Partitions[0].LastFetchedEpoch = 5
		return req
	})
	s.each("last fetched epoch", 12, 18, func(v int16) kmsg.Request {
		req := fetching(v, t, 3)
		req.Topics[0].Partitions[0].LastFetchedEpoch = 0
		return req
	})
	s.each("fetched past the end", 12, 18, func(v int16) kmsg.Request {
		req := fetching(v, t, 60)
		req.Topics[0].Partitions[0].LastFetchedEpoch = 0
		return req
	})
	s.each("zero id", 13, 18, func(v int16) kmsg.Request { return fetching(v, target{}, 0) })
	twice := fetching(12, t, 0, 0, 0)
	s.ask("partition twice", 12, twice)
	s.each("as a stranger's replica", 4, 14, func(v int16) kmsg.Request {
		req := fetching(v, t, 0)
		req.ReplicaID = 7
		return req
	})
}

func fetchSessions(s *script) {
	t := s.filled("session", 2, 1)
	u := s.filled("session-too", 1, 1)
	for _, v := range []int16{7, 12, 13, 17} {
		in := func(id, epoch int32, req *kmsg.FetchRequest) *kmsg.FetchRequest {
			req.SessionID, req.SessionEpoch = id, epoch
			return req
		}
		empty := func() *kmsg.FetchRequest {
			req := fetching(v, t, 0)
			req.Topics = nil
			return req
		}
		end := int64(3)
		if v != 7 {
			end = 3 + int64(map[int16]int{12: 1, 13: 2, 17: 3}[v])
		}
		opened := s.ask("open", v, in(0, 0, fetching(v, t, end, 0, 1))).(*kmsg.FetchResponse)
		id := opened.SessionID
		if id == 0 {
			s.fail("no session was opened")
		}
		s.ask("nothing new", v, in(id, 1, empty()))
		s.ask("wrong epoch", v, in(id, 7, empty()))
		s.write(t, 0, batchOf(plainBatch(), "more"))
		s.ask("something new", v, in(id, 2, empty()))
		s.ask("again, not moved on", v, in(id, 3, empty()))
		s.ask("moved on", v, in(id, 4, fetching(v, t, end+1)))
		s.ask("another topic", v, in(id, 5, fetching(v, u, 0)))
		forget := empty()
		for _, x := range []target{t, u} {
			f := kmsg.NewFetchRequestForgottenTopic()
			if v < 13 {
				f.Topic = x.name
			} else {
				f.TopicID = x.id
			}
			f.Partitions = []int32{0}
			forget.ForgottenTopics = append(forget.ForgottenTopics, f)
		}
		s.ask("forgotten", v, in(id, 6, forget))
		s.ask("an unknown topic", v, in(id, 7, fetching(v, target{s.name("nothing"), unknownID}, 0)))
		s.ask("errors repeat", v, in(id, 8, empty()))
		s.ask("out of range within", v, in(id, 9, fetching(v, t, 99)))
		s.ask("unknown session", v, in(id+1, 1, empty()))
		s.ask("no session, epoch 1", v, in(0, 1, empty()))
		s.ask("negative epoch", v, in(id, -5, empty()))
		if v == 12 || v == 13 {
			other := int16(13)
			if v == 13 {
				other = 12
			}
			s.ask(fmt.Sprintf("names and ids mixed from %d", v), other, in(id, 10, fetching(other, t, end)))
		}
		last := empty()
		for _, x := range []target{t, u, {s.name("nothing"), unknownID}} {
			f := kmsg.NewFetchRequestForgottenTopic()
			if v < 13 {
				f.Topic = x.name
			} else {
				f.TopicID = x.id
			}
			f.Partitions = []int32{0, 1}
			last.ForgottenTopics = append(last.ForgottenTopics, f)
		}
		s.ask("all forgotten", v, in(id, 10, last))
		s.ask("after all was forgotten", v, in(id, 11, empty()))
		again := s.ask("open again", v, in(0, 0, fetching(v, t, end+1))).(*kmsg.FetchResponse)
		s.ask("closed", v, in(again.SessionID, -1, fetching(v, t, end+1)))
		s.ask("after it was closed", v, in(again.SessionID, 1, empty()))
		s.ask("open without a topic", v, in(0, 0, empty()))
	}
}
