package fsm

import (
	"slices"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// The model of who is in sync and who leads, with sets instead of lists and as a
// list of ranks instead of cases.

type set map[int32]bool

func setOf(ids ...[]int32) set {
	s := set{}
	for _, l := range ids {
		for _, id := range l {
			s[id] = true
		}
	}
	return s
}

func (s set) of(order []int32) []int32 {
	var out []int32
	for _, id := range order {
		if s[id] {
			out = append(out, id)
		}
	}
	return out
}

// wish is what a command wants of an election.
type wish struct {
	prefer  int32
	unclean bool
	// gone lost its records.
	gone int32
}

var noWish = wish{prefer: -1, gone: -1}

func (m *model) topicPolicy(id record.TopicID) metadata.Policy {
	return metadata.PolicyOf(m.topics[id].Configs, m.configs[metadata.ConfigResource{Kind: metadata.ResourceBroker}])
}

// rest brings an edited partition to rest and stores it; it returns the leader.
func (m *model) rest(tp record.TopicPartition, p metadata.Partition, w wish) int32 {
	old, policy := m.parts[tp], m.topicPolicy(tp.Topic)
	whole := setOf(old.ISR, old.ELR)
	delete(whole, w.gone)
	for id := range setOf(p.ISR, p.ELR) {
		whole[id] = true
	}
	active := set{}
	for id := range setOf(p.ISR) {
		if m.eligible(id) {
			active[id] = true
		}
	}
	isr := active
	if len(active) == 0 {
		isr = setOf(p.ISR)
		if b, ok := m.brokers[old.Leader]; ok && !b.Fenced && isr[old.Leader] {
			isr = set{old.Leader: true}
		}
	}
	// Everybody's claim, best first: lower is better, none is no claim.
	leader, best := int32(-1), 1000
	for i, id := range p.Replicas {
		rank := -1
		b, up := m.brokers[id]
		up = up && !b.Fenced
		stays := up && !b.ShuttingDown
		may := stays && !b.Full
		switch {
		case may && isr[id] && id == w.prefer:
			rank = 0
		case up && isr[id] && id == old.Leader && (may || len(active) == 0):
			rank = 1
		case may && isr[id]:
			rank = 100 + i + 50*chill(p, id)
		case stays && len(active) == 0 && setOf(p.ISR, p.ELR)[id]:
			rank = 210 + i + 20*chill(p, id)
			if id == w.prefer {
				rank = 200
			}
			rank += 100 * fullness(b)
		case stays && len(p.ISR)+len(p.ELR) == 0 && id == p.LastKnownLeader:
			rank = 400
		case stays && (w.unclean || policy.Unclean):
			rank = 510 + i + 20*chill(p, id)
			if id == p.LastKnownLeader {
				rank = 501
			}
			if id == w.prefer {
				rank = 500
			}
			rank += 100 * fullness(b)
		}
		if rank >= 0 && rank < best {
			leader, best = id, rank
		}
	}
	if leader >= 0 && best >= 200 {
		isr = set{leader: true}
	}
	if leader >= 0 && best >= 500 {
		whole = set{}
	}
	target := []int32{}
	for _, id := range p.Replicas {
		if !slices.Contains(p.Removing, id) {
			target = append(target, id)
		}
	}
	done := leader >= 0 && len(p.Adding)+len(p.Removing) > 0
	for _, id := range target {
		done = done && isr[id] && m.eligible(id)
	}
	if done {
		p.Replicas, p.Adding, p.Removing = target, nil, nil
		isr = setOf(target)
		if !isr[leader] {
			leader = target[0]
			for i := len(target) - 1; i >= 0; i-- {
				if chill(p, target[i]) <= chill(p, leader) {
					leader = target[i]
				}
			}
		}
	}
	p.Cold = setOf(p.Cold).of(p.Replicas)
	p.Leader = leader
	p.ISR = isr.of(p.Replicas)
	p.ELR = nil
	if len(p.ISR) < policy.MinISR(min(len(p.Replicas)-len(p.Adding), len(p.Replicas)-len(p.Removing))) {
		for _, id := range p.Replicas {
			if whole[id] && !isr[id] {
				p.ELR = append(p.ELR, id)
			}
		}
	}
	if leader >= 0 {
		p.LastKnownLeader = -1
	} else if old.Leader >= 0 {
		p.LastKnownLeader = old.Leader
	}
	if leader != old.Leader {
		p.LeaderEpoch++
	}
	same := p
	same.PartitionEpoch = old.PartitionEpoch
	if !sameSetup(same, old) {
		p.PartitionEpoch++
	}
	m.parts[tp] = p
	return leader
}

// fullness is 1 of a broker whose disk is full, 0 of others.
func fullness(b metadata.Broker) int {
	if b.Full {
		return 1
	}
	return 0
}

// chill is 1 of a cold replica, 0 of a warm one.
func chill(p metadata.Partition, id int32) int {
	if setOf(p.Cold)[id] {
		return 1
	}
	return 0
}

func sameSetup(a, b metadata.Partition) bool {
	return slices.Equal(a.Replicas, b.Replicas) && slices.Equal(a.ISR, b.ISR) && slices.Equal(a.ELR, b.ELR) && slices.Equal(a.Adding, b.Adding) &&
		slices.Equal(a.Removing, b.Removing) && slices.Equal(a.Cold, b.Cold) && a.Leader == b.Leader && a.LeaderEpoch == b.LeaderEpoch && a.LastKnownLeader == b.LastKnownLeader
}

// restAll brings all partitions with this replica to rest (every one for -1).
func (m *model) restAll(broker int32) {
	for tp, p := range m.parts {
		if broker < 0 || slices.Contains(p.Replicas, broker) {
			m.rest(tp, p, noWish)
		}
	}
}

// discount takes a broker whose records are gone out of the sets.
// begins: it registered with an empty disk.
func (m *model) discount(broker int32, wiped, begins bool, of func(record.TopicPartition) bool) {
	for tp, p := range m.parts {
		if !slices.Contains(p.Replicas, broker) {
			continue
		}
		if !of(tp) {
			m.rest(tp, p, noWish)
			continue
		}
		isr, elr := setOf(p.ISR), setOf(p.ELR)
		delete(isr, broker)
		delete(elr, broker)
		p.ISR, p.ELR = isr.of(p.Replicas), elr.of(p.Replicas)
		if wiped && p.LastKnownLeader == broker {
			p.LastKnownLeader = -1
		}
		if begins && p.RemoteEnd > p.LogStart && m.version >= 3 {
			p.Cold = setOf(p.Cold, []int32{broker}).of(p.Replicas)
		}
		m.rest(tp, p, wish{prefer: -1, gone: broker})
	}
}

func (m *model) unregister(c *command.UnregisterBroker) modelAnswer {
	b, ok := m.brokers[c.BrokerID]
	switch {
	case !ok:
		return whole(command.CodeNotFound)
	case c.BrokerEpoch != -1 && c.BrokerEpoch != b.Epoch:
		return whole(command.CodeStaleBrokerEpoch)
	case !b.Fenced:
		return whole(command.CodeInvalid)
	}
	for _, p := range m.parts {
		if s := setOf(p.ISR, p.ELR); len(s) == 1 && s[b.ID] {
			return whole(command.CodeLastReplica)
		}
	}
	delete(m.brokers, b.ID)
	m.discount(b.ID, true, false, func(record.TopicPartition) bool { return true })
	return modelAnswer{epoch: b.Epoch}
}

func (m *model) alterPartition(broker int32, ch command.ISRChange) command.Code {
	if code := m.leads(ch.Partition, broker, ch.LeaderEpoch); code != 0 {
		return code
	}
	p := m.parts[ch.Partition]
	if p.PartitionEpoch != ch.PartitionEpoch {
		return command.CodeStalePartitionEpoch
	}
	want := set{}
	for _, r := range ch.ISR {
		if !slices.Contains(p.Replicas, r.BrokerID) || want[r.BrokerID] {
			return command.CodeInvalid
		}
		if r.BrokerID != p.Leader {
			stays := r.BrokerEpoch == -1 && setOf(p.ISR)[r.BrokerID]
			if !m.eligible(r.BrokerID) || !stays && m.brokers[r.BrokerID].Epoch != r.BrokerEpoch {
				return command.CodeIneligibleReplica
			}
		}
		want[r.BrokerID] = true
	}
	if !want[p.Leader] {
		return command.CodeInvalid
	}
	p.ISR = want.of(p.Replicas)
	if m.version >= 3 {
		cold := setOf(ch.Cold)
		if len(cold) != len(ch.Cold) || len(cold.of(p.Replicas)) != len(cold) {
			return command.CodeInvalid
		}
		p.Cold = cold.of(p.Replicas)
	}
	m.rest(ch.Partition, p, noWish)
	if after := m.parts[ch.Partition]; after.PartitionEpoch == ch.PartitionEpoch {
		after.PartitionEpoch++ // asked for as it is: the epoch rises all the same
		m.parts[ch.Partition] = after
	}
	return 0
}

func (m *model) elect(e command.Election) command.Code {
	p, ok := m.parts[e.Partition]
	if !ok {
		return command.CodeNotFound
	}
	if e.PartitionEpoch != -1 && p.PartitionEpoch != e.PartitionEpoch {
		return command.CodeStalePartitionEpoch
	}
	w := wish{prefer: e.Leader, gone: -1, unclean: e.Kind == command.ElectUnclean}
	switch {
	case e.Kind == command.ElectPreferred:
		w.prefer = p.Target()[0]
		if p.Leader == w.prefer {
			return command.CodeElectionNotNeeded
		}
		if !m.eligible(w.prefer) || !setOf(p.ISR)[w.prefer] {
			return command.CodePreferredUnavailable
		}
	case p.Leader >= 0 && (w.unclean || e.Leader < 0 || e.Leader == p.Leader):
		return command.CodeElectionNotNeeded
	}
	switch leader := m.rest(e.Partition, p, w); {
	case leader < 0:
		m.parts[e.Partition] = p
		return command.CodeNoEligibleLeader
	case w.prefer >= 0 && leader != w.prefer:
		m.parts[e.Partition] = p
		return command.CodeIneligibleReplica
	}
	return 0
}

func (m *model) reassign(it command.Reassignment, keep bool) command.Code {
	p, ok := m.parts[it.Partition]
	if !ok {
		return command.CodeNotFound
	}
	var origin []int32
	for _, id := range p.Replicas {
		if !slices.Contains(p.Adding, id) {
			origin = append(origin, id)
		}
	}
	want := p
	want.Adding, want.Removing = nil, nil
	if it.Replicas == nil {
		if len(p.Adding)+len(p.Removing) == 0 {
			return command.CodeNoReassignment
		}
		want.Replicas = origin
	} else {
		if len(it.Replicas) == 0 || keep && len(it.Replicas) != len(origin) || len(setOf(it.Replicas)) != len(it.Replicas) {
			return command.CodeInvalidAssignment
		}
		for _, id := range it.Replicas {
			if _, ok := m.brokers[id]; !ok {
				return command.CodeInvalidAssignment
			}
			if !setOf(origin)[id] {
				want.Adding = append(want.Adding, id)
			}
		}
		want.Replicas = slices.Clone(it.Replicas)
		for _, id := range origin {
			if !setOf(it.Replicas)[id] {
				want.Removing = append(want.Removing, id)
				want.Replicas = append(want.Replicas, id)
			}
		}
	}
	want.ISR, want.ELR = setOf(p.ISR).of(want.Replicas), setOf(p.ELR).of(want.Replicas)
	if len(want.ISR)+len(want.ELR) == 0 && len(p.ISR)+len(p.ELR) > 0 {
		return command.CodeInvalidAssignment
	}
	m.rest(it.Partition, want, noWish)
	return 0
}
