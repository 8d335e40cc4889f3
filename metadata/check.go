package metadata

import (
	"errors"
	"fmt"
	"slices"

	"github.com/firnlog/firn/record"
)

// ErrInvariant is wrapped by Check and CheckStep.
var ErrInvariant = errors.New("metadata: invariant broken")

// Check holds an image against what must always be true of it. It is for tests and
// simulations; it looks at every partition.
//
//   - Replicas are distinct and not empty; ISR, ELR, Cold, Adding and Removing are parts
//     of them, the first three in their order; ISR and ELR share nobody, nor do Adding
//     and Removing.
//   - The leader is registered, not fenced, and in the ISR; so are all other members
//     of a led partition's ISR, and none of them is shutting down or full.
//   - The ELR is empty unless the ISR is smaller than min.insync.replicas.
//   - A partition without a leader has nobody who may lead; only such a partition has
//     a last known leader.
//   - No reassignment is left open whose target is active and in sync.
func Check(img *Image) error {
	brokers := img.Configs(ResourceBroker, "")
	for t := range img.Topics() {
		policy := PolicyOf(t.Configs, brokers)
		count := int32(0)
		for n, p := range img.Partitions(t.ID) {
			if err := checkPartition(img, policy, p); err != nil {
				return fmt.Errorf("%w: %s-%d: %w: %+v", ErrInvariant, t.Name, n, err, *p)
			}
			count++
		}
		if count != t.Partitions {
			return fmt.Errorf("%w: topic %s has %d of %d partitions", ErrInvariant, t.Name, count, t.Partitions)
		}
	}
	return nil
}

func checkPartition(img *Image, policy Policy, p *Partition) error {
	if len(p.Replicas) == 0 {
		return errors.New("no replicas")
	}
	for _, part := range []struct {
		name    string
		ids     []int32
		ordered bool
	}{{"replicas", p.Replicas, true}, {"ISR", p.ISR, true}, {"ELR", p.ELR, true}, {"cold", p.Cold, true}, {"adding", p.Adding, false}, {"removing", p.Removing, false}} {
		if err := checkSubset(part.ids, p.Replicas, part.ordered); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	switch {
	case shares(p.ISR, p.ELR):
		return errors.New("ISR and ELR share a replica")
	case shares(p.Adding, p.Removing):
		return errors.New("a replica is added and removed")
	case len(p.ELR) > 0 && len(p.ISR) >= policy.MinISR(p.Factor()):
		return errors.New("ELR beside a sufficient ISR")
	}
	if p.Leader >= 0 {
		return checkLed(img, p)
	}
	return checkLeaderless(img, policy, p)
}

func checkLed(img *Image, p *Partition) error {
	leader := img.Broker(p.Leader)
	switch {
	case !p.InSync(p.Leader):
		return errors.New("leader is not in the ISR")
	case leader == nil || leader.Fenced:
		return errors.New("leader is fenced or not registered")
	case p.LastKnownLeader != -1:
		return errors.New("last known leader beside a leader")
	case !leader.Eligible() && len(p.ISR) > 1:
		return errors.New("leader is shutting down or full though another is in sync")
	}
	for _, id := range p.ISR {
		if id != p.Leader && !img.Broker(id).Eligible() {
			return fmt.Errorf("broker %d is in the ISR but not eligible", id)
		}
	}
	if p.Reassigning() && leader.Eligible() && len(without(p.Target(), p.ISR)) == 0 {
		return errors.New("reassignment is not completed")
	}
	return nil
}

func checkLeaderless(img *Image, policy Policy, p *Partition) error {
	if p.Leader != -1 {
		return fmt.Errorf("leader %d", p.Leader)
	}
	for _, id := range p.Replicas {
		if !img.Broker(id).Staying() {
			continue
		}
		if p.InSync(id) || slices.Contains(p.ELR, id) || policy.Unclean || len(p.ISR)+len(p.ELR) == 0 && id == p.LastKnownLeader {
			return fmt.Errorf("no leader though broker %d may lead", id)
		}
	}
	return nil
}

// checkSubset checks that ids are distinct members of all, in its order if ordered.
func checkSubset(ids, all []int32, ordered bool) error {
	last := -1
	for i, id := range ids {
		at := slices.Index(all, id)
		switch {
		case at < 0:
			return fmt.Errorf("broker %d is no replica", id)
		case slices.Contains(ids[:i], id):
			return fmt.Errorf("broker %d is there twice", id)
		case ordered && at < last:
			return fmt.Errorf("broker %d is out of order", id)
		}
		last = at
	}
	return nil
}

func shares(a, b []int32) bool {
	return slices.ContainsFunc(a, func(id int32) bool { return slices.Contains(b, id) })
}

// CheckStep holds an image against one before it in the same log: epochs, offsets
// and the index never go back, and a change is never without its epoch.
func CheckStep(old, img *Image) error {
	if img.Index() < old.Index() || img.FeaturesEpoch() < old.FeaturesEpoch() {
		return fmt.Errorf("%w: index %d after %d, features epoch %d after %d", ErrInvariant, img.Index(), old.Index(), img.FeaturesEpoch(), old.FeaturesEpoch())
	}
	for b := range img.Brokers() {
		if was := old.Broker(b.ID); was != nil && b.Epoch < was.Epoch {
			return fmt.Errorf("%w: broker %d has epoch %d after %d", ErrInvariant, b.ID, b.Epoch, was.Epoch)
		}
	}
	for tp, p := range img.AllPartitions() {
		was := old.Partition(tp)
		if was == nil || was == p {
			continue
		}
		if err := checkStep(was, p); err != nil {
			return fmt.Errorf("%w: partition %s: %w: %+v after %+v", ErrInvariant, tp, err, *p, *was)
		}
	}
	return nil
}

func checkStep(old, p *Partition) error {
	same := slices.Equal(old.Replicas, p.Replicas) && slices.Equal(old.ISR, p.ISR) && slices.Equal(old.ELR, p.ELR) &&
		slices.Equal(old.Adding, p.Adding) && slices.Equal(old.Removing, p.Removing) && slices.Equal(old.Cold, p.Cold) && old.LastKnownLeader == p.LastKnownLeader
	switch {
	case p.LeaderEpoch < old.LeaderEpoch || p.PartitionEpoch < old.PartitionEpoch:
		return errors.New("an epoch went back")
	case p.Leader != old.Leader && p.LeaderEpoch == old.LeaderEpoch:
		return errors.New("another leader in the same leader epoch")
	case p.LeaderEpoch != old.LeaderEpoch && p.PartitionEpoch == old.PartitionEpoch, !same && p.PartitionEpoch == old.PartitionEpoch:
		return errors.New("a change in the same partition epoch")
	case p.LogStart < old.LogStart || p.RemoteEnd < old.RemoteEnd || p.RemoteEpoch < old.RemoteEpoch:
		return errors.New("log start or remote end went back")
	case old.RemoteEpoch == record.NoEpoch && p.RemoteEnd != old.RemoteEnd && p.RemoteEpoch == record.NoEpoch:
		return errors.New("a copy without its epoch")
	}
	return nil
}
