package fsm

import (
	"slices"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// settlement is how a partition that a command edited comes to rest.
type settlement struct {
	// prefer is a broker to lead if it is active and in sync, even if another leads
	// now; -1 for none.
	prefer int32
	// unclean lets any active replica lead where otherwise nobody would.
	unclean bool
	// gone is a broker whose records no longer count, -1 for none.
	gone int32
}

// byOrder leaves the choice of a leader to the order of the replicas.
var byOrder = settlement{prefer: -1, gone: -1}

// settle works out the state that a partition comes to, in which all invariants of
// metadata.Check hold, from the state before (old) and what the command made of it
// (want: replicas, ISR, ELR, Cold, LastKnownLeader, Adding and Removing edited; leader
// and epochs as they were). It returns old itself if nothing changes. Every command that
// touches replicas, ISR or a broker goes through here, so that what follows from it
// is in the same step of the log:
//
//   - the fenced, those shutting down and those whose disk is full leave the ISR while
//     another active member is in it; the last ones stay, since they have all records;
//   - a reassignment whose target is active and in the ISR completes;
//   - a leader that is gone is replaced: from the ISR, else from the ELR, else, with
//     both empty, by the last known leader, else uncleanly if the topic allows it; from
//     each by one whose disk is full only where there is no other. Of
//     several the warm come before the cold (metadata.Partition.Cold), then the order
//     of the replicas decides. A leader that is there stays, cold or not;
//   - what left the ISR is eligible (ELR) as long as the ISR is smaller than
//     min.insync.replicas, for then the watermark stands still (KIP-966);
//   - epochs rise.
func (t *txn) settle(old, want *metadata.Partition, policy metadata.Policy, how settlement) *metadata.Partition {
	next := *want
	eligible := func(id int32) bool { return t.ed.Broker(id).Eligible() }
	// Those who have all records below the watermark, whatever becomes of the ISR.
	complete := append(slices.Clone(want.ISR), want.ELR...)
	for _, id := range append(slices.Clone(old.ISR), old.ELR...) {
		if id != how.gone && !slices.Contains(complete, id) {
			complete = append(complete, id)
		}
	}

	active := keep(next.ISR, eligible)
	switch {
	case len(active) > 0:
		next.ISR = active
	case next.Leader >= 0 && next.InSync(next.Leader) && t.alive(next.Leader):
		next.ISR = []int32{next.Leader} // shutting down or full, and no other can lead
	}
	if !next.InSync(next.Leader) || !t.alive(next.Leader) {
		next.Leader = -1
	}

	switch {
	case how.prefer >= 0 && slices.Contains(active, how.prefer):
		next.Leader = how.prefer
	case next.Leader >= 0 && (len(active) == 0 || slices.Contains(active, next.Leader)):
	case len(active) > 0:
		next.Leader = warmest(&next, inOrder(next.Replicas, active))
	default:
		var clean bool
		next.Leader, clean = t.lastResort(&next, policy, how)
		if next.Leader >= 0 {
			next.ISR = []int32{next.Leader}
		}
		if !clean {
			complete = nil
		}
	}
	if target := next.Target(); next.Reassigning() && isSubset(target, keep(next.ISR, eligible)) {
		next.Replicas, next.ISR, next.Adding, next.Removing = target, target, nil, nil
		if !next.InSync(next.Leader) {
			next.Leader = warmest(&next, target)
		}
	}

	next.ISR = inOrder(next.Replicas, next.ISR)
	next.Cold = inOrder(next.Replicas, next.Cold)
	next.ELR = nil
	if len(next.ISR) < policy.MinISR(next.Factor()) {
		next.ELR = inOrder(next.Replicas, remove(complete, next.ISR))
	}
	switch {
	case next.Leader >= 0:
		next.LastKnownLeader = -1
	case old.Leader >= 0:
		next.LastKnownLeader = old.Leader
	}
	return withEpochs(old, &next)
}

// lastResort chooses a leader where no member of the ISR is active; -1 if there is
// none. clean is false if the choice may have lost records, so that all the others'
// claims to be complete end.
func (t *txn) lastResort(p *metadata.Partition, policy metadata.Policy, how settlement) (leader int32, clean bool) {
	// A member of the ISR may be there whose disk is full.
	complete := append(slices.Clone(p.ISR), p.ELR...)
	if from := t.ready(inOrder(p.Replicas, complete)); len(from) > 0 {
		return choose(p, from, how.prefer), true
	}
	known := t.ready([]int32{p.LastKnownLeader})
	if len(known) > 0 && p.HasReplica(p.LastKnownLeader) && len(complete) == 0 {
		return p.LastKnownLeader, true
	}
	if !policy.Unclean && !how.unclean {
		return -1, true
	}
	from := t.ready(p.Replicas)
	switch {
	case len(from) == 0:
		return -1, true
	case !slices.Contains(from, how.prefer) && slices.Contains(from, p.LastKnownLeader):
		return p.LastKnownLeader, false
	}
	return choose(p, from, how.prefer), false
}

// ready returns those of ids that may lead: the eligible, or where there are none,
// those that would be but for a full disk.
func (t *txn) ready(ids []int32) []int32 {
	if from := keep(ids, func(id int32) bool { return t.ed.Broker(id).Eligible() }); len(from) > 0 {
		return from
	}
	return keep(ids, func(id int32) bool { return t.ed.Broker(id).Staying() })
}

// choose returns the broker that is to be preferred if it is a candidate, else the
// warmest.
//
// REQUIRES: there are candidates.
func choose(p *metadata.Partition, candidates []int32, prefer int32) int32 {
	if slices.Contains(candidates, prefer) {
		return prefer
	}
	return warmest(p, candidates)
}

// warmest returns the first of the candidates that is warm, or the first of all.
//
// REQUIRES: there are candidates.
func warmest(p *metadata.Partition, candidates []int32) int32 {
	for _, id := range candidates {
		if p.Warm(id) {
			return id
		}
	}
	return candidates[0]
}

// alive reports whether a broker is registered and not fenced.
func (t *txn) alive(id int32) bool {
	b := t.ed.Broker(id)
	return b != nil && !b.Fenced
}

// withEpochs raises the epochs of next over old's, or returns old if nothing else
// differs.
func withEpochs(old, next *metadata.Partition) *metadata.Partition {
	if next.Leader == old.Leader && next.LastKnownLeader == old.LastKnownLeader &&
		slices.Equal(next.Replicas, old.Replicas) && slices.Equal(next.ISR, old.ISR) && slices.Equal(next.ELR, old.ELR) &&
		slices.Equal(next.Adding, old.Adding) && slices.Equal(next.Removing, old.Removing) && slices.Equal(next.Cold, old.Cold) {
		return old
	}
	next.PartitionEpoch = old.PartitionEpoch + 1
	if next.Leader != old.Leader {
		next.LeaderEpoch = old.LeaderEpoch + 1
	}
	return next
}

// policy is what the configs so far say of a topic.
func (t *txn) policy(topic *metadata.Topic) metadata.Policy {
	return metadata.PolicyOf(topic.Configs, t.ed.Configs(metadata.ConfigResource{Kind: metadata.ResourceBroker}))
}

// settlePartition settles one partition and stores it if it changed.
func (t *txn) settlePartition(tp record.TopicPartition, want *metadata.Partition, how settlement) (*metadata.Partition, error) {
	old := t.ed.Partition(tp)
	next := t.settle(old, want, t.policy(t.ed.Topic(tp.Topic)), how)
	if next == old {
		return old, nil
	}
	return next, t.putPartition(tp, next)
}

// settleTopic settles the partitions of one topic after a change of its policy.
func (t *txn) settleTopic(topic *metadata.Topic) error {
	policy := t.policy(topic)
	return t.ed.EachPartitionOf(topic, func(_ *metadata.Topic, n int32, p *metadata.Partition) error {
		return t.store(record.TopicPartition{Topic: topic.ID, Partition: n}, p, t.settle(p, p, policy, byOrder))
	})
}

// settleAll settles every partition that affected picks, after edit made of it what
// the command says; edit may be nil.
func (t *txn) settleAll(affected func(*metadata.Partition) bool, edit func(*metadata.Partition, metadata.Policy) settlement) error {
	var topic *metadata.Topic
	var policy metadata.Policy
	return t.ed.EachPartition(func(of *metadata.Topic, n int32, p *metadata.Partition) error {
		if !affected(p) {
			return nil
		}
		if topic != of {
			topic, policy = of, t.policy(of)
		}
		want, how := *p, byOrder
		if edit != nil {
			how = edit(&want, policy)
		}
		return t.store(record.TopicPartition{Topic: of.ID, Partition: n}, p, t.settle(p, &want, policy, how))
	})
}

func (t *txn) store(tp record.TopicPartition, old, next *metadata.Partition) error {
	if next == old {
		return nil
	}
	return t.putPartition(tp, next)
}

// keep returns the ids that ok holds of, as a slice of its own; nil if there are
// none.
func keep(ids []int32, ok func(int32) bool) []int32 {
	var out []int32
	for _, id := range ids {
		if ok(id) {
			out = append(out, id)
		}
	}
	return out
}

// remove returns ids without those in drop, as a slice of its own; nil if none is
// left.
func remove(ids, drop []int32) []int32 {
	return keep(ids, func(id int32) bool { return !slices.Contains(drop, id) })
}

// inOrder returns the members of order that are in ids; nil if there are none.
func inOrder(order, ids []int32) []int32 {
	return keep(order, func(id int32) bool { return slices.Contains(ids, id) })
}

func isSubset(part, of []int32) bool {
	return !slices.ContainsFunc(part, func(id int32) bool { return !slices.Contains(of, id) })
}
