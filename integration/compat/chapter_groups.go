package main

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

func findingOne(kind int8, key string) *kmsg.FindCoordinatorRequest {
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.CoordinatorType, req.CoordinatorKey, req.CoordinatorKeys = kind, key, []string{key}
	return req
}

// coordinate waits until the broker coordinates a group of this name.
func (s *script) coordinate(group string) {
	s.until(3, findingOne(0, group), func(r kmsg.Response) bool { return r.(*kmsg.FindCoordinatorResponse).ErrorCode == 0 })
	s.until(4, describingGroup(group), func(r kmsg.Response) bool {
		code := r.(*kmsg.DescribeGroupsResponse).Groups[0].ErrorCode
		return code != 14 && code != 15 && code != 16
	})
}

func describingGroup(group string) *kmsg.DescribeGroupsRequest {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = []string{group}
	return req
}

func coordinators(s *script) {
	s.coordinate(s.name("g"))
	s.each("group", 0, 6, func(int16) kmsg.Request { return findingOne(0, s.name("g")) })
	s.each("empty group", 0, 6, func(int16) kmsg.Request { return findingOne(0, "") })
	s.each("unknown type", 1, 6, func(int16) kmsg.Request { return findingOne(9, s.name("g")) })
	s.each("share group", 1, 6, func(int16) kmsg.Request { return findingOne(2, s.name("g")) })
	many := findingOne(0, "")
	many.CoordinatorKeys = []string{s.name("g"), s.name("h")}
	s.ask("two groups", 4, many)
	many.CoordinatorKeys = []string{}
	s.ask("no group", 4, many)
}

func joining(group, member, instance, kind string, protocols ...string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType = group, member, kind
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 30_000, 30_000
	if instance != "" {
		req.InstanceID = &instance
	}
	for _, p := range protocols {
		k := kmsg.NewJoinGroupRequestProtocol()
		k.Name, k.Metadata = p, []byte("subscription")
		req.Protocols = append(req.Protocols, k)
	}
	return req
}

func syncing(group, member string, generation int32) *kmsg.SyncGroupRequest {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation = group, member, generation
	req.ProtocolType, req.Protocol = to("kind"), to("p")
	a := kmsg.NewSyncGroupRequestGroupAssignment()
	a.MemberID, a.MemberAssignment = member, []byte("assignment")
	req.GroupAssignment = append(req.GroupAssignment, a)
	return req
}

func beating(group, member string, generation int32) *kmsg.HeartbeatRequest {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation = group, member, generation
	return req
}

func leaving(group string, members ...string) *kmsg.LeaveGroupRequest {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = group
	for _, m := range members {
		req.MemberID = m
		k := kmsg.NewLeaveGroupRequestMember()
		k.MemberID = m
		req.Members = append(req.Members, k)
	}
	return req
}

// member joins a group and names the member's id for the comparison.
func (s *script) member(group, kind string) (id string, generation int32) {
	resp := s.must(4, joining(group, "", "", kind, "p")).(*kmsg.JoinGroupResponse)
	s.namer.names[resp.MemberID] = "member"
	resp = s.must(4, joining(group, resp.MemberID, "", kind, "p")).(*kmsg.JoinGroupResponse)
	if resp.ErrorCode != 0 {
		s.fail("join: error %d", resp.ErrorCode)
	}
	return resp.MemberID, resp.Generation
}

func groups(s *script) {
	for v := int16(0); v <= 9; v++ {
		group := s.name("group" + string('0'+rune(v)))
		s.coordinate(group)
		member := ""
		if v >= 4 {
			first := s.must(v, joining(group, "", "", "kind", "p", "q")).(*kmsg.JoinGroupResponse)
			member = first.MemberID
			s.namer.names[member] = "member"
			s.note("join without an id", v, answered, s.namer.flatten(first), nil)
		}
		resp := s.must(v, joining(group, member, "", "kind", "p", "q")).(*kmsg.JoinGroupResponse)
		member = resp.MemberID
		s.namer.names[member] = "member"
		s.note("join", v, answered, s.namer.flatten(resp), nil)
		gen := resp.Generation
		s.ask("heartbeat before sync", min(v, 4), beating(group, member, gen))
		s.ask("describe before sync", min(v, 6), describingGroup(group))
		s.ask("sync", min(v, 5), syncing(group, member, gen))
		s.ask("heartbeat", min(v, 4), beating(group, member, gen))
		s.ask("describe", min(v, 6), describingGroup(group))
		s.ask("sync again", min(v, 5), syncing(group, member, gen))
		s.ask("commit", min(v+2, 9), committing(group, member, gen, target{}))
		s.ask("join again", v, joining(group, member, "", "kind", "p", "q"))
		s.ask("delete while not empty", min(v, 2), deletingGroups(group))
		s.ask("leave", min(v, 5), leaving(group, member))
		s.ask("leave again", min(v, 5), leaving(group, member))
		s.ask("describe after leaving", min(v, 6), describingGroup(group))
		s.ask("heartbeat after leaving", min(v, 4), beating(group, member, gen))
		s.ask("delete", min(v, 2), deletingGroups(group))
		s.ask("delete again", min(v, 2), deletingGroups(group))
		s.ask("describe after deletion", min(v, 6), describingGroup(group))
	}
	list := s.name("listed-group")
	s.coordinate(list)
	s.member(list, "kind")
	for v := int16(0); v <= 5; v++ {
		resp := s.must(v, kmsg.NewPtrListGroupsRequest()).(*kmsg.ListGroupsResponse)
		kept := resp.Groups[:0]
		for _, g := range resp.Groups {
			if g.Group == list {
				kept = append(kept, g)
			}
		}
		resp.Groups = kept
		s.note("list", v, answered, s.namer.flatten(resp), nil)
	}
	for _, state := range []string{"Stable", "stable", "CompletingRebalance", "Empty", "Nonsense"} {
		req := kmsg.NewPtrListGroupsRequest()
		req.StatesFilter = []string{state}
		resp := s.must(5, req).(*kmsg.ListGroupsResponse)
		found := false
		for _, g := range resp.Groups {
			found = found || g.Group == list
		}
		s.note("list state "+state, 5, answered, answer{"found": map[bool]string{true: "yes", false: "no"}[found]}, nil)
	}
	for _, kind := range []string{"classic", "Classic", "consumer", "nonsense"} {
		req := kmsg.NewPtrListGroupsRequest()
		req.TypesFilter = []string{kind}
		resp := s.must(5, req).(*kmsg.ListGroupsResponse)
		found := false
		for _, g := range resp.Groups {
			found = found || g.Group == list
		}
		s.note("list type "+kind, 5, answered, answer{"found": map[bool]string{true: "yes", false: "no"}[found], "error": s.namer.number("", int64(resp.ErrorCode))}, nil)
	}
}

func deletingGroups(groups ...string) *kmsg.DeleteGroupsRequest {
	req := kmsg.NewPtrDeleteGroupsRequest()
	req.Groups = groups
	return req
}

func groupErrors(s *script) {
	g, none := s.name("wrong-group"), s.name("no-group")
	s.coordinate(g)
	s.coordinate(none)
	member, gen := s.member(g, "kind")
	s.must(4, syncing(g, member, gen))
	for _, v := range []int16{0, 3, 5, 9} {
		s.ask("join an unknown group by name", v, joining(none, "stranger", "", "kind", "p"))
		s.ask("join as a stranger", v, joining(g, "stranger", "", "kind", "p"))
		s.ask("join with another type", v, joining(g, member, "", "other", "p"))
		s.ask("join with another protocol", v, joining(g, "", "", "kind", "other"))
		s.ask("join with no protocol", v, joining(none, "", "", "kind"))
		s.ask("join with no type", v, joining(none, "", "", "", "p"))
		s.ask("join no group", v, joining("", "", "", "kind", "p"))
		short := joining(none, "", "", "kind", "p")
		short.SessionTimeoutMillis = 1
		s.ask("session too short", v, short)
		long := joining(none, "", "", "kind", "p")
		long.SessionTimeoutMillis = 1 << 30
		s.ask("session too long", v, long)
	}
	for _, v := range []int16{0, 3, 5} {
		s.ask("sync an unknown group", v, syncing(none, member, gen))
		s.ask("sync no group", v, syncing("", member, gen))
		s.ask("sync as a stranger", v, syncing(g, "stranger", gen))
		s.ask("sync another generation", v, syncing(g, member, gen+5))
		other := syncing(g, member, gen)
		other.Protocol = to("other")
		s.ask("sync another protocol", v, other)
		s.ask("leave an unknown group", v, leaving(none, member))
		s.ask("leave as a stranger", v, leaving(g, "stranger"))
		s.ask("leave no group", v, leaving("", member))
	}
	s.ask("leave two strangers", 5, leaving(g, "a", "b"))
	for _, v := range []int16{0, 3, 4} {
		s.ask("heartbeat to an unknown group", v, beating(none, member, gen))
		s.ask("heartbeat to no group", v, beating("", member, gen))
		s.ask("heartbeat as a stranger", v, beating(g, "stranger", gen))
		s.ask("heartbeat of another generation", v, beating(g, member, gen+5))
	}
	for v := int16(0); v <= 6; v++ {
		s.ask("describe no group", v, describingGroup(""))
		ops := describingGroup(g)
		ops.IncludeAuthorizedOperations = true
		s.ask("describe with operations", v, ops)
	}
	never := s.name("never-a-group")
	s.coordinate(never)
	s.each("describe a group that never was", 0, 6, func(int16) kmsg.Request { return describingGroup(never) })
	s.each("delete no group", 0, 2, func(int16) kmsg.Request { return deletingGroups("") })
	s.each("delete several", 0, 2, func(int16) kmsg.Request { return deletingGroups(never, g) })
	s.ask("delete several", 3, deletingGroups(never, g))

	static := s.name("static-group")
	s.coordinate(static)
	for _, v := range []int16{5, 9} {
		instance := "instance" + string('0'+rune(v))
		first := s.must(v, joining(static, "", instance, "kind", "p")).(*kmsg.JoinGroupResponse)
		s.namer.names[first.MemberID] = "static member"
		s.note("static join", v, answered, s.namer.flatten(first), nil)
		s.must(3, syncing(static, first.MemberID, first.Generation))
		second := s.must(v, joining(static, "", instance, "kind", "p")).(*kmsg.JoinGroupResponse)
		s.namer.names[second.MemberID] = "static member again"
		s.note("static join again", v, answered, s.namer.flatten(second), nil)
		old := beating(static, first.MemberID, first.Generation)
		old.InstanceID = &instance
		s.ask("fenced heartbeat", 4, old)
		out := leaving(static, "")
		out.Members[0].InstanceID = &instance
		s.ask("leave by instance", 5, out)
	}
}

func committing(group, member string, generation int32, t target) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = group, member, generation
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = t.name, t.id
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.Metadata, p.LeaderEpoch = 0, 3, to("note"), 0
	rt.Partitions = append(rt.Partitions, p)
	if t != (target{}) {
		req.Topics = append(req.Topics, rt)
	}
	return req
}

func fetchingOffsets(group string, t target, partitions ...int32) *kmsg.OffsetFetchRequest {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = group
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group, rg.MemberEpoch = group, -1
	if t != (target{}) {
		rt := kmsg.NewOffsetFetchRequestTopic()
		rt.Topic, rt.Partitions = t.name, partitions
		req.Topics = append(req.Topics, rt)
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.TopicID, gt.Partitions = t.name, t.id, partitions
		rg.Topics = append(rg.Topics, gt)
	}
	req.Groups = append(req.Groups, rg)
	return req
}

func offsets(s *script) {
	t := s.filled("committed", 2, 1)
	g, none := s.name("offsets"), s.name("no-offsets")
	s.coordinate(g)
	s.coordinate(none)
	nothing := target{s.name("nothing"), unknownID}
	for v := int16(2); v <= 10; v++ {
		s.ask("simple commit", v, committing(g, "", -1, t))
		s.ask("commit of an unknown topic", v, committing(g, "", -1, nothing))
		far := committing(g, "", -1, t)
		far.Topics[0].Partitions[0].Partition = 9
		s.ask("commit of an unknown partition", v, far)
		s.ask("commit with a generation to an unknown group", v, committing(none, "m", 5, t))
		s.ask("commit as a stranger", v, committing(g, "stranger", -1, t))
		s.ask("commit of another generation", v, committing(g, "stranger", 7, t))
		s.ask("commit to no group", v, committing("", "", -1, t))
		long := committing(g, "", -1, t)
		long.Topics[0].Partitions[0].Metadata = to(string(make([]byte, 5000)))
		s.ask("metadata too long", v, long)
		null := committing(g, "", -1, t)
		null.Topics[0].Partitions[0].Metadata = nil
		null.Topics[0].Partitions[0].Partition = 1
		s.ask("null metadata", v, null)
		s.ask("commit of nothing", v, committing(g, "", -1, target{}))
	}
	for v := int16(1); v <= 10; v++ {
		s.ask("fetch", v, fetchingOffsets(g, t, 0, 1, 5))
		s.ask("fetch an unknown topic", v, fetchingOffsets(g, nothing, 0))
		s.ask("fetch of an unknown group", v, fetchingOffsets(none, t, 0))
		s.ask("fetch of no group", v, fetchingOffsets("", t, 0))
		all := fetchingOffsets(g, target{})
		if v >= 2 {
			s.ask("fetch all", v, all)
			s.ask("fetch all of an unknown group", v, fetchingOffsets(none, target{}))
		}
		if v >= 7 {
			stable := fetchingOffsets(g, t, 0)
			stable.RequireStable = true
			s.ask("fetch stable", v, stable)
		}
		if v >= 8 {
			two := fetchingOffsets(g, t, 0)
			two.Groups = append(two.Groups, fetchingOffsets(none, t, 0).Groups...)
			s.ask("fetch two groups", v, two)
		}
		if v >= 9 {
			as := fetchingOffsets(g, t, 0)
			as.Groups[0].MemberID, as.Groups[0].MemberEpoch = to("stranger"), 5
			s.ask("fetch as a stranger", v, as)
		}
	}
	s.ask("describe the simple group", 6, describingGroup(g))
	del := func(group, topic string, partitions ...int32) *kmsg.OffsetDeleteRequest {
		req := kmsg.NewPtrOffsetDeleteRequest()
		req.Group = group
		rt := kmsg.NewOffsetDeleteRequestTopic()
		rt.Topic = topic
		for _, n := range partitions {
			p := kmsg.NewOffsetDeleteRequestTopicPartition()
			p.Partition = n
			rt.Partitions = append(rt.Partitions, p)
		}
		req.Topics = append(req.Topics, rt)
		return req
	}
	s.ask("delete offsets", 0, del(g, t.name, 0, 7))
	s.ask("delete offsets again", 0, del(g, t.name, 0))
	s.ask("delete offsets of an unknown topic", 0, del(g, nothing.name, 0))
	s.ask("delete offsets of an unknown group", 0, del(none, t.name, 0))
	s.ask("delete offsets of no group", 0, del("", t.name, 0))
	s.ask("after the deletion", 9, fetchingOffsets(g, t, 0, 1))
	s.ask("delete the group", 2, deletingGroups(g))
	s.ask("after the group's deletion", 9, fetchingOffsets(g, t, 0, 1))
}

// transactions are not served: the refusals are compared with what a Kafka does.
func transactions(s *script) {
	s.each("init", 0, 5, func(int16) kmsg.Request {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis = kmsg.StringPtr(s.name("tx")), 60_000
		return req
	})
	s.each("find the coordinator", 1, 6, func(int16) kmsg.Request { return findingOne(1, s.name("tx")) })
	var t target
	t.name, t.id = s.topic("transactional", 1)
	req := producing(t, -1, sealed(tampered(batchOf(plainBatch(), "a"), 22, 1<<4)))
	req.TransactionID = kmsg.StringPtr(s.name("tx"))
	s.ask("transactional batch", 9, req)
}
