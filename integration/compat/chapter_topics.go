package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

func creating(validate bool, topics ...kmsg.CreateTopicsRequestTopic) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis, req.ValidateOnly, req.Topics = 30_000, validate, topics
	return req
}

func assigned(name string, replicas map[int32][]int32) kmsg.CreateTopicsRequestTopic {
	t := newTopic(name, -1, -1)
	for p := int32(0); p < 64; p++ {
		if ids, ok := replicas[p]; ok {
			a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
			a.Partition, a.Replicas = p, ids
			t.ReplicaAssignment = append(t.ReplicaAssignment, a)
		}
	}
	return t
}

func createTopics(s *script) {
	versions := func(label string, req func() kmsg.Request) {
		s.each(label, 2, 7, func(int16) kmsg.Request { return req() })
	}
	for v := int16(2); v <= 7; v++ {
		resp := s.ask("happy", v, creating(false, newTopic(s.name("new"+string('0'+rune(v))), 2, 1, "retention.ms", "1000", "cleanup.policy", "compact"),
			newTopic(s.name("plain"+string('0'+rune(v))), 1, -1))).(*kmsg.CreateTopicsResponse)
		if v == 7 {
			for _, t := range resp.Topics {
				s.namer.names[record.TopicID(t.TopicID).String()] = "id of " + s.namer.text(t.Topic)
			}
		}
	}
	s.ask("defaults", 7, creating(false, newTopic(s.name("defaults"), -1, -1)))
	versions("exists", func() kmsg.Request { return creating(false, newTopic(s.name("new2"), 1, 1)) })
	versions("validate only", func() kmsg.Request {
		return creating(true, newTopic(s.name("validated"), 3, 1, "segment.bytes", "2000000"))
	})
	badNames := map[string]string{"empty": "", "dot": ".", "dots": "..", "slash": "a/b", "space": "a b", "umlaut": "ä",
		"of 250 letters": strings.Repeat("x", 250)}
	for _, label := range slices.Sorted(maps.Keys(badNames)) {
		s.ask("name "+label, 7, creating(true, newTopic(badNames[label], 1, 1)))
	}
	s.ask("name of 249 letters", 7, creating(true, newTopic(strings.Repeat("x", 249), 1, 1)))
	s.topic("col.li_de", 1)
	s.ask("collision", 7, creating(true, newTopic(s.name("col_li.de"), 1, 1)))
	s.ask("partitions 0", 7, creating(true, newTopic(s.name("bad"), 0, 1)))
	s.ask("partitions -2", 7, creating(true, newTopic(s.name("bad"), -2, 1)))
	s.ask("replication 0", 7, creating(true, newTopic(s.name("bad"), 1, 0)))
	s.ask("replication -2", 7, creating(true, newTopic(s.name("bad"), 1, -2)))
	s.ask("replication 2", 7, creating(true, newTopic(s.name("bad"), 1, 2)))
	s.ask("partitions 10001", 7, creating(true, newTopic(s.name("bad"), 10_001, 1)))
	settings := map[string]string{"no.such.config": "1", "retention.ms": "soon", "cleanup.policy": "shred", "min.insync.replicas": "0",
		"max.message.bytes": "-1", "segment.bytes": "1000", "compression.type": "rar", "message.format.version": "2.8", "message.timestamp.type": "Never",
		"retention.bytes": "-2", "segment.ms": "0", "unclean.leader.election.enable": "maybe", "local.retention.ms": "5", "compression.gzip.level": "10",
		"delete.retention.ms": "-1", "flush.ms": "-1", "index.interval.bytes": "-1", "leader.replication.throttled.replicas": "1", "preallocate": "2",
		"message.downconversion.enable": "true", "segment.jitter.ms": "-1", "min.cleanable.dirty.ratio": "2", "remote.storage.enable": "true"}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		s.ask("config "+name+"="+settings[name], 7, creating(true, newTopic(s.name("bad"), 1, 1, name, settings[name])))
	}
	s.ask("config cleanup.policy empty", 7, creating(true, newTopic(s.name("bad"), 1, 1, "cleanup.policy", "")))
	s.ask("config cleanup.policy both", 7, creating(true, newTopic(s.name("ok"), 1, 1, "cleanup.policy", "compact,delete")))
	s.ask("config local over total", 7, creating(true, newTopic(s.name("bad"), 1, 1, "retention.ms", "1000", "local.retention.ms", "2000")))
	null := newTopic(s.name("bad"), 1, 1, "retention.ms", "1")
	null.Configs[0].Value = nil
	s.ask("config null", 7, creating(true, null))
	twice := newTopic(s.name("bad"), 1, 1, "retention.ms", "1", "retention.ms", "2")
	s.ask("config twice", 7, creating(true, twice))
	s.ask("twice", 7, creating(true, newTopic(s.name("twice"), 1, 1), newTopic(s.name("twice"), 2, 1), newTopic(s.name("once"), 1, 1)))
	s.ask("two with errors", 5, creating(false, newTopic(s.name("a/b"), 1, 1), newTopic(s.name("new2"), 1, 1), newTopic(s.name("good"), 1, 1)))
	s.ask("none", 7, creating(false))
	s.ask("assigned", 7, creating(false, assigned(s.name("assigned"), map[int32][]int32{0: {1}, 1: {1}})))
	s.ask("assigned with a gap", 7, creating(true, assigned(s.name("bad"), map[int32][]int32{0: {1}, 2: {1}})))
	s.ask("assigned to nobody", 7, creating(true, assigned(s.name("bad"), map[int32][]int32{0: {}})))
	s.ask("assigned to an unknown broker", 7, creating(true, assigned(s.name("bad"), map[int32][]int32{0: {7}})))
	s.ask("assigned twice to one broker", 7, creating(true, assigned(s.name("bad"), map[int32][]int32{0: {1, 1}})))
	s.ask("assigned unevenly", 7, creating(true, assigned(s.name("bad"), map[int32][]int32{0: {1}, 1: {1, 2}})))
	both := assigned(s.name("bad"), map[int32][]int32{0: {1}})
	both.NumPartitions = 1
	s.ask("assigned and counted", 7, creating(true, both))
	both.NumPartitions, both.ReplicationFactor = -1, 1
	s.ask("assigned and replicated", 7, creating(true, both))
	s.ask("offsets topic", 7, creating(true, newTopic("__consumer_offsets_not", 1, 1)))
}

func deleting(names ...string) *kmsg.DeleteTopicsRequest {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis, req.TopicNames = 30_000, names
	return req
}

func deletingIDs(topics ...kmsg.DeleteTopicsRequestTopic) *kmsg.DeleteTopicsRequest {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis, req.Topics = 30_000, topics
	return req
}

func deletedTopic(name *string, id [16]byte) kmsg.DeleteTopicsRequestTopic {
	t := kmsg.NewDeleteTopicsRequestTopic()
	t.Topic, t.TopicID = name, id
	return t
}

var unknownID = [16]byte{1, 2, 3, 4, 5, 6, 0x40, 8, 0x80}

func deleteTopics(s *script) {
	s.namer.names[record.TopicID(unknownID).String()] = "unknown id"
	for v := int16(1); v <= 5; v++ {
		name, _ := s.topic("gone", 1)
		s.ask("happy", v, deleting(name))
		s.ask("again", v, deleting(name))
	}
	name, id := s.topic("gone", 1)
	s.ask("happy", 6, deletingIDs(deletedTopic(&name, [16]byte{})))
	s.ask("again", 6, deletingIDs(deletedTopic(&name, [16]byte{})))
	s.ask("again by id", 6, deletingIDs(deletedTopic(nil, id)))
	name, id = s.topic("gone", 1)
	s.ask("name and id", 6, deletingIDs(deletedTopic(&name, id)))
	s.ask("neither", 6, deletingIDs(deletedTopic(nil, [16]byte{})))
	s.ask("by name and by id", 6, deletingIDs(deletedTopic(&name, [16]byte{}), deletedTopic(nil, id)))
	s.ask("id twice", 6, deletingIDs(deletedTopic(nil, id), deletedTopic(nil, id)))
	s.ask("unknown id", 6, deletingIDs(deletedTopic(nil, unknownID)))
	s.ask("by id", 6, deletingIDs(deletedTopic(nil, id)))
	other, _ := s.topic("gone", 1)
	s.ask("twice", 5, deleting(other, other))
	s.ask("twice unknown", 5, deleting(s.name("nothing"), s.name("nothing")))
	s.ask("none", 5, deleting())
	s.ask("bad name", 5, deleting("a/b"))
}

func createPartitions(s *script) {
	growing := func(validate bool, name string, count int32, assignment ...[]int32) *kmsg.CreatePartitionsRequest {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.TimeoutMillis, req.ValidateOnly = 30_000, validate
		t := kmsg.NewCreatePartitionsRequestTopic()
		t.Topic, t.Count = name, count
		for _, ids := range assignment {
			a := kmsg.NewCreatePartitionsRequestTopicAssignment()
			a.Replicas = ids
			t.Assignment = append(t.Assignment, a)
		}
		req.Topics = append(req.Topics, t)
		return req
	}
	name, _ := s.topic("growing", 1)
	for v := int16(0); v <= 3; v++ {
		s.ask("happy", v, growing(false, name, 2+int32(v)))
	}
	s.ask("same", 3, growing(false, name, 5))
	s.ask("fewer", 3, growing(false, name, 2))
	s.ask("zero", 3, growing(false, name, 0))
	s.ask("negative", 3, growing(false, name, -1))
	s.ask("far too many", 3, growing(true, name, 20_000))
	s.ask("unknown topic", 3, growing(false, s.name("nothing"), 5))
	s.ask("bad name", 3, growing(false, "a/b", 5))
	s.ask("validate only", 3, growing(true, name, 9))
	s.ask("assigned", 3, growing(false, name, 6, []int32{1}))
	s.ask("assigned too few", 3, growing(false, name, 9, []int32{1}))
	s.ask("assigned too many", 3, growing(false, name, 7, []int32{1}, []int32{1}))
	s.ask("assigned to an unknown broker", 3, growing(false, name, 7, []int32{9}))
	s.ask("assigned to nobody", 3, growing(false, name, 7, []int32{}))
	s.ask("assigned to more replicas", 3, growing(false, name, 7, []int32{1, 2}))
	twice := growing(false, name, 10)
	twice.Topics = append(twice.Topics, twice.Topics[0])
	s.ask("twice", 3, twice)
}

func asking(names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	return req
}

func metadata(s *script) {
	cluster := s.must(12, asking()).(*kmsg.MetadataResponse)
	s.namer.names[*cluster.ClusterID] = "cluster id"
	name, id := s.topic("seen", 3)
	s.each("by name", 0, 13, func(int16) kmsg.Request { return asking(name) })
	// Below version 4 asking is creating.
	s.each("two and an unknown one", 4, 13, func(int16) kmsg.Request { return asking(name, s.name("nothing"), "a/b") })
	s.each("a bad name", 0, 13, func(int16) kmsg.Request { return asking(name, "a/b") })
	s.each("none", 1, 13, func(int16) kmsg.Request { return asking() })
	s.each("authorized operations", 8, 13, func(int16) kmsg.Request {
		req := asking(name)
		req.IncludeClusterAuthorizedOperations, req.IncludeTopicAuthorizedOperations = true, true
		return req
	})
	for v := int16(12); v <= 13; v++ {
		byID := func(ids ...[16]byte) *kmsg.MetadataRequest {
			req := asking()
			for _, id := range ids {
				t := kmsg.NewMetadataRequestTopic()
				t.TopicID = id
				req.Topics = append(req.Topics, t)
			}
			return req
		}
		s.ask("by id", v, byID(id))
		s.ask("by unknown id", v, byID(unknownID, id))
		s.ask("by no name and no id", v, byID([16]byte{}))
		both := asking(name)
		both.Topics[0].TopicID = id
		s.ask("by name and id", v, both)
		wrong := asking(name)
		wrong.Topics[0].TopicID = unknownID
		s.ask("by name and unknown id", v, wrong)
	}
	ids := asking(name)
	ids.Topics[0].TopicID = id
	s.ask("id below version 12", 10, ids)
	null := asking(name)
	null.Topics[0].Topic = nil
	s.ask("null name below version 12", 11, null)
	s.ask("twice", 9, asking(name, name))
	s.ask("empty name", 9, asking(""))
	// Creation by asking.
	for _, v := range []int16{1, 4, 9, 13} {
		auto := asking(s.name("auto" + string(rune('a'+v))))
		auto.AllowAutoTopicCreation = true
		s.ask("auto create", v, auto)
		s.until(v, auto, func(r kmsg.Response) bool {
			t := r.(*kmsg.MetadataResponse).Topics[0]
			if t.ErrorCode != 0 || len(t.Partitions) == 0 || t.Partitions[0].ErrorCode != 0 {
				return false
			}
			s.namer.names[record.TopicID(t.TopicID).String()] = "id of an auto topic"
			return true
		})
		s.ask("auto created", v, auto)
	}
	bad := asking("a/b")
	bad.AllowAutoTopicCreation = true
	s.ask("auto create a bad name", 9, bad)
	s.ask("not created", 9, asking(s.name("nothing")))
}

func describeCluster(s *script) {
	cluster := s.must(12, asking()).(*kmsg.MetadataResponse)
	s.namer.names[*cluster.ClusterID] = "cluster id"
	for _, endpoint := range []int8{1, 2, 0, 3} {
		s.each("endpoint type "+string(rune('0'+endpoint)), 1, 2, func(int16) kmsg.Request {
			req := kmsg.NewPtrDescribeClusterRequest()
			req.EndpointType, req.IncludeFencedBrokers = endpoint, true
			return req
		})
	}
	s.each("plain", 0, 2, func(int16) kmsg.Request { return kmsg.NewPtrDescribeClusterRequest() })
	s.each("authorized operations", 0, 1, func(int16) kmsg.Request {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.IncludeClusterAuthorizedOperations = true
		return req
	})
}

func describeTopicPartitions(s *script) {
	a, _ := s.topic("page-a", 3)
	b, _ := s.topic("page-b", 4)
	c, _ := s.topic("page-c", 1)
	page := func(limit int32, cursor string, partition int32, names ...string) *kmsg.DescribeTopicPartitionsRequest {
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.ResponsePartitionLimit = limit
		for _, name := range names {
			t := kmsg.NewDescribeTopicPartitionsRequestTopic()
			t.Topic = name
			req.Topics = append(req.Topics, t)
		}
		if cursor != "" {
			at := kmsg.NewDescribeTopicPartitionsRequestCursor()
			at.Topic, at.Partition = cursor, partition
			req.Cursor = &at
		}
		return req
	}
	s.ask("three", 0, page(2000, "", 0, c, a, b))
	s.ask("page of 2", 0, page(2, "", 0, a, b, c))
	s.ask("page of 3", 0, page(3, "", 0, a, b, c))
	s.ask("page of 4", 0, page(4, "", 0, a, b, c))
	s.ask("from a cursor", 0, page(3, a, 2, a, b, c))
	s.ask("from a cursor in the middle", 0, page(2000, b, 1, a, b, c))
	s.ask("cursor at the end", 0, page(2000, b, 4, a, b, c))
	s.ask("cursor past the end", 0, page(2000, b, 9, a, b, c))
	s.ask("cursor of a negative partition", 0, page(2000, b, -1, a, b, c))
	s.ask("cursor not in the list", 0, page(2000, s.name("page-bb"), 0, a, b, c))
	s.ask("cursor past all", 0, page(2000, s.name("zz"), 0, a, b, c))
	s.ask("limit 0", 0, page(0, "", 0, a))
	s.ask("limit -1", 0, page(-1, "", 0, a))
	s.ask("unknown topic", 0, page(2000, "", 0, a, s.name("nothing"), b))
	s.ask("unknown topic with a limit", 0, page(3, "", 0, a, s.name("page-ax"), b))
	s.ask("bad name", 0, page(2000, "", 0, "a/b", a))
	s.ask("twice", 0, page(2000, "", 0, a, a))
}
