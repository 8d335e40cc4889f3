package fsm

import (
	"slices"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// led returns a partition that the broker leads in this leader epoch.
func (t *txn) led(tp record.TopicPartition, broker int32, epoch record.Epoch) (*metadata.Partition, error) {
	p := t.ed.Partition(tp)
	switch {
	case p == nil:
		return nil, refuse(command.ErrNotFound, "partition %s does not exist", tp)
	case p.LeaderEpoch != epoch:
		return nil, refuse(command.ErrStaleLeaderEpoch, "partition %s has leader epoch %d, not %d", tp, p.LeaderEpoch, epoch)
	case p.Leader != broker:
		return nil, refuse(command.ErrNotLeader, "partition %s is led by %d, not %d", tp, p.Leader, broker)
	}
	return p, nil
}

func (t *txn) alterPartition(c *command.AlterPartition) (command.Result, error) {
	if _, err := t.broker(c.BrokerID, c.BrokerEpoch); err != nil {
		return command.Result{}, err
	}
	return each(len(c.Partitions), func(i int) (command.ItemResult, error) {
		ch := &c.Partitions[i]
		p, err := t.led(ch.Partition, c.BrokerID, ch.LeaderEpoch)
		if err != nil {
			return command.ItemResult{}, err
		}
		if p.PartitionEpoch != ch.PartitionEpoch {
			return command.ItemResult{}, refuse(command.ErrStalePartitionEpoch, "partition %s has epoch %d, not %d", ch.Partition, p.PartitionEpoch, ch.PartitionEpoch)
		}
		isr, err := t.newISR(p, ch)
		if err != nil {
			return command.ItemResult{}, err
		}
		next := *p
		next.ISR = isr
		next.ELR = without(p.ELR, isr)
		next.PartitionEpoch++
		if err := t.putPartition(ch.Partition, &next); err != nil {
			return command.ItemResult{}, err
		}
		return command.ItemResult{LeaderEpoch: next.LeaderEpoch, PartitionEpoch: next.PartitionEpoch}, nil
	})
}

// newISR checks the members that a leader wants and puts them in the order of the
// replicas.
func (t *txn) newISR(p *metadata.Partition, ch *command.ISRChange) ([]int32, error) {
	ids := make([]int32, 0, len(ch.ISR))
	for _, m := range ch.ISR {
		b := t.ed.Broker(m.BrokerID)
		switch {
		case !p.HasReplica(m.BrokerID):
			return nil, refuse(command.ErrInvalid, "partition %s: broker %d is no replica", ch.Partition, m.BrokerID)
		case slices.Contains(ids, m.BrokerID):
			return nil, refuse(command.ErrInvalid, "partition %s: broker %d is twice in the ISR", ch.Partition, m.BrokerID)
		case m.BrokerID == p.Leader:
			// The leader spoke with its own broker epoch, and may be shutting down.
		case !b.Eligible():
			return nil, refuse(command.ErrIneligibleReplica, "partition %s: broker %d is fenced or shutting down", ch.Partition, m.BrokerID)
		case m.BrokerEpoch >= 0 && m.BrokerEpoch != b.Epoch:
			return nil, refuse(command.ErrIneligibleReplica, "partition %s: broker %d has epoch %d, not %d", ch.Partition, m.BrokerID, b.Epoch, m.BrokerEpoch)
		}
		ids = append(ids, m.BrokerID)
	}
	if !slices.Contains(ids, p.Leader) {
		return nil, refuse(command.ErrInvalid, "partition %s: the ISR lacks the leader %d", ch.Partition, p.Leader)
	}
	return inOrder(p.Replicas, ids), nil
}

// inOrder returns the members of order that are in ids.
func inOrder(order, ids []int32) []int32 {
	out := make([]int32, 0, len(ids))
	for _, id := range order {
		if slices.Contains(ids, id) {
			out = append(out, id)
		}
	}
	return out
}

// without returns ids without those in drop; nil if none is left.
func without(ids, drop []int32) []int32 {
	var out []int32
	for _, id := range ids {
		if !slices.Contains(drop, id) {
			out = append(out, id)
		}
	}
	return out
}

func (t *txn) electLeaders(c *command.ElectLeaders) (command.Result, error) {
	return each(len(c.Elections), func(i int) (command.ItemResult, error) {
		e := &c.Elections[i]
		p := t.ed.Partition(e.Partition)
		if p == nil {
			return command.ItemResult{}, refuse(command.ErrNotFound, "partition %s does not exist", e.Partition)
		}
		if p.PartitionEpoch != e.PartitionEpoch {
			return command.ItemResult{}, refuse(command.ErrStalePartitionEpoch, "partition %s has epoch %d, not %d", e.Partition, p.PartitionEpoch, e.PartitionEpoch)
		}
		next := *p
		if err := t.elect(&next, e); err != nil {
			return command.ItemResult{}, err
		}
		if err := t.putPartition(e.Partition, &next); err != nil {
			return command.ItemResult{}, err
		}
		return command.ItemResult{LeaderEpoch: next.LeaderEpoch, PartitionEpoch: next.PartitionEpoch}, nil
	})
}

// elect changes p by the election, or refuses it.
func (t *txn) elect(p *metadata.Partition, e *command.Election) error {
	isr := p.ISR
	if e.ISR != nil {
		isr = inOrder(p.Replicas, e.ISR)
		if len(isr) == 0 || len(isr) != len(e.ISR) || !e.Unclean && len(without(isr, p.ISR)) > 0 {
			return refuse(command.ErrInvalid, "partition %s: ISR %v is no part of %v", e.Partition, e.ISR, p.ISR)
		}
	}
	if e.Leader >= 0 {
		switch {
		case !p.HasReplica(e.Leader) || !t.ed.Broker(e.Leader).Eligible():
			return refuse(command.ErrIneligibleReplica, "partition %s: broker %d is no replica, fenced or shutting down", e.Partition, e.Leader)
		case !slices.Contains(isr, e.Leader) && !e.Unclean:
			return refuse(command.ErrIneligibleReplica, "partition %s: broker %d is not in sync", e.Partition, e.Leader)
		case !slices.Contains(isr, e.Leader):
			isr = []int32{e.Leader}
		}
	}
	p.Leader = max(e.Leader, -1)
	p.ISR = isr
	p.ELR = without(p.ELR, isr)
	p.LastKnownLeader = -1
	p.LeaderEpoch++
	p.PartitionEpoch++
	return nil
}

func (t *txn) advanceLogStart(c *command.AdvanceLogStart) (command.Result, error) {
	if _, err := t.broker(c.BrokerID, c.BrokerEpoch); err != nil {
		return command.Result{}, err
	}
	return each(len(c.Partitions), func(i int) (command.ItemResult, error) {
		ch := &c.Partitions[i]
		p, err := t.led(ch.Partition, c.BrokerID, ch.LeaderEpoch)
		if err != nil {
			return command.ItemResult{}, err
		}
		if ch.LogStart < 0 {
			return command.ItemResult{}, refuse(command.ErrInvalid, "partition %s: log start %d", ch.Partition, ch.LogStart)
		}
		if ch.LogStart <= p.LogStart {
			return command.ItemResult{LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, LogStart: p.LogStart}, nil
		}
		next := *p
		next.LogStart = ch.LogStart
		if err := t.putPartition(ch.Partition, &next); err != nil {
			return command.ItemResult{}, err
		}
		return command.ItemResult{LeaderEpoch: next.LeaderEpoch, PartitionEpoch: next.PartitionEpoch, LogStart: next.LogStart}, nil
	})
}
