package main

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

func reassigning(topic string, partition int32, replicas []int32) *kmsg.AlterPartitionAssignmentsRequest {
	req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	req.TimeoutMillis = 10_000
	t := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	t.Topic = topic
	p := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
	p.Partition, p.Replicas = partition, replicas
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// reassignments asks a cluster of one broker to move what cannot be moved.
func reassignments(s *script) {
	name, _ := s.topic("moved", 2)
	s.each("to where it is", 0, 1, func(int16) kmsg.Request { return reassigning(name, 0, []int32{1}) })
	s.each("to an unknown broker", 0, 1, func(int16) kmsg.Request { return reassigning(name, 0, []int32{7}) })
	s.each("to a known and an unknown broker", 0, 1, func(int16) kmsg.Request { return reassigning(name, 0, []int32{1, 7}) })
	s.each("cancel nothing", 0, 1, func(int16) kmsg.Request { return reassigning(name, 0, nil) })
	s.each("to nobody", 0, 1, func(int16) kmsg.Request { return reassigning(name, 0, []int32{}) })
	s.each("to one broker twice", 0, 1, func(int16) kmsg.Request { return reassigning(name, 0, []int32{1, 1}) })
	s.each("to a negative broker", 0, 1, func(int16) kmsg.Request { return reassigning(name, 0, []int32{-1}) })
	s.each("unknown partition", 0, 1, func(int16) kmsg.Request { return reassigning(name, 9, []int32{1}) })
	s.each("unknown topic", 0, 1, func(int16) kmsg.Request { return reassigning(s.name("nothing"), 0, []int32{1}) })
	s.ask("no topics", 1, kmsg.NewPtrAlterPartitionAssignmentsRequest())
	keep := reassigning(name, 0, []int32{1, 7})
	keep.AllowReplicationFactorChange = false
	s.ask("another factor, which is not allowed", 1, keep)

	list := func(topic string, partitions ...int32) *kmsg.ListPartitionReassignmentsRequest {
		req := kmsg.NewPtrListPartitionReassignmentsRequest()
		req.TimeoutMillis = 10_000
		t := kmsg.NewListPartitionReassignmentsRequestTopic()
		t.Topic, t.Partitions = topic, partitions
		req.Topics = append(req.Topics, t)
		return req
	}
	s.ask("list all", 0, kmsg.NewPtrListPartitionReassignmentsRequest())
	s.ask("list one", 0, list(name, 0, 1))
	s.ask("list an unknown partition", 0, list(name, 9))
	s.ask("list an unknown topic", 0, list(s.name("nothing"), 0))
}

// leaderElections asks for elections that are not needed or not possible.
func leaderElections(s *script) {
	name, _ := s.topic("elected", 2)
	electing := func(kind int8, topic string, partitions ...int32) *kmsg.ElectLeadersRequest {
		req := kmsg.NewPtrElectLeadersRequest()
		req.ElectionType, req.TimeoutMillis = kind, 10_000
		t := kmsg.NewElectLeadersRequestTopic()
		t.Topic, t.Partitions = topic, partitions
		req.Topics = append(req.Topics, t)
		return req
	}
	s.each("preferred, not needed", 0, 2, func(int16) kmsg.Request { return electing(0, name, 0, 1) })
	s.each("unclean, not needed", 1, 2, func(int16) kmsg.Request { return electing(1, name, 0) })
	s.each("unknown partition", 0, 2, func(int16) kmsg.Request { return electing(0, name, 9) })
	s.each("unknown topic", 0, 2, func(int16) kmsg.Request { return electing(0, s.name("nothing"), 0) })
	s.ask("unknown type", 2, electing(5, name, 0))
	all := kmsg.NewPtrElectLeadersRequest()
	all.TimeoutMillis = 10_000
	s.ask("all", 2, all)
	none := kmsg.NewPtrElectLeadersRequest()
	none.Topics = []kmsg.ElectLeadersRequestTopic{}
	s.ask("none", 2, none)
}

// features asks for levels that cannot be had, and changes none.
func featureUpdates(s *script) {
	updating := func(name string, level int16, kind int8) *kmsg.UpdateFeaturesRequest {
		req := kmsg.NewPtrUpdateFeaturesRequest()
		u := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
		u.Feature, u.MaxVersionLevel, u.UpgradeType = name, level, kind
		req.FeatureUpdates = append(req.FeatureUpdates, u)
		return req
	}
	s.each("unknown feature", 1, 2, func(int16) kmsg.Request { return updating("no.such.feature", 1, 1) })
	s.each("level too high", 1, 2, func(int16) kmsg.Request { return updating("metadata.version", 9999, 1) })
	s.each("negative level", 1, 2, func(int16) kmsg.Request { return updating("metadata.version", -1, 1) })
	s.each("down by an upgrade", 1, 2, func(int16) kmsg.Request { return updating("metadata.version", 1, 1) })
	s.each("unknown type", 1, 2, func(int16) kmsg.Request { return updating("metadata.version", 7, 9) })
	s.ask("none", 2, kmsg.NewPtrUpdateFeaturesRequest())
}

// brokers asks about brokers that are not there, and directories.
func brokers(s *script) {
	unknown := kmsg.NewPtrUnregisterBrokerRequest()
	unknown.BrokerID = 77
	s.ask("unregister an unknown broker", 0, unknown)
	name, _ := s.topic("filed", 1)
	moving := func(dir, topic string, partition int32) *kmsg.AlterReplicaLogDirsRequest {
		req := kmsg.NewPtrAlterReplicaLogDirsRequest()
		d := kmsg.NewAlterReplicaLogDirsRequestDir()
		d.Dir = dir
		t := kmsg.NewAlterReplicaLogDirsRequestDirTopic()
		t.Topic, t.Partitions = topic, []int32{partition}
		d.Topics = append(d.Topics, t)
		req.Dirs = append(req.Dirs, d)
		return req
	}
	s.each("to an unknown directory", 1, 2, func(int16) kmsg.Request { return moving("/no/such/directory", name, 0) })
	s.each("an unknown topic to an unknown directory", 1, 2, func(int16) kmsg.Request { return moving("/no/such/directory", s.name("nothing"), 0) })
	s.each("to a relative directory", 1, 2, func(int16) kmsg.Request { return moving("somewhere", name, 0) })
}
