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
		if err := checkPartitionEpoch(ch.Partition, p, ch.PartitionEpoch); err != nil {
			return command.ItemResult{}, err
		}
		isr, err := t.newISR(p, ch)
		if err != nil {
			return command.ItemResult{}, err
		}
		want := *p
		want.ISR = isr
		if t.atLevel2() {
			if err := checkCold(p, ch); err != nil {
				return command.ItemResult{}, err
			}
			want.Cold = inOrder(p.Replicas, ch.Cold)
		}
		next, err := t.settlePartition(ch.Partition, &want, byOrder)
		if err == nil && next == p {
			// The leader asks for what is there to be sure that an earlier proposal,
			// of which it never heard, cannot come any more: the epoch says so.
			same := *p
			same.PartitionEpoch++
			next, err = &same, t.putPartition(ch.Partition, &same)
		}
		if err != nil {
			return command.ItemResult{}, err
		}
		return command.ItemResult{LeaderEpoch: next.LeaderEpoch, PartitionEpoch: next.PartitionEpoch}, nil
	})
}

// settled settles a partition and answers with its epochs.
func (t *txn) settled(tp record.TopicPartition, want *metadata.Partition, how settlement) (command.ItemResult, error) {
	next, err := t.settlePartition(tp, want, how)
	if err != nil {
		return command.ItemResult{}, err
	}
	return command.ItemResult{LeaderEpoch: next.LeaderEpoch, PartitionEpoch: next.PartitionEpoch}, nil
}

func checkPartitionEpoch(tp record.TopicPartition, p *metadata.Partition, epoch int32) error {
	if p.PartitionEpoch != epoch {
		return refuse(command.ErrStalePartitionEpoch, "partition %s has epoch %d, not %d", tp, p.PartitionEpoch, epoch)
	}
	return nil
}

// newISR checks the members that a leader wants.
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
			// The leader spoke with its own broker epoch, and may be shutting down or full.
		case !b.Eligible():
			return nil, refuse(command.ErrIneligibleReplica, "partition %s: broker %d is fenced, shutting down or full", ch.Partition, m.BrokerID)
		case m.BrokerEpoch == -1 && p.InSync(m.BrokerID):
			// It did not register again since: that would have taken it out.
		case m.BrokerEpoch != b.Epoch:
			return nil, refuse(command.ErrIneligibleReplica, "partition %s: broker %d has epoch %d, not %d", ch.Partition, m.BrokerID, b.Epoch, m.BrokerEpoch)
		}
		ids = append(ids, m.BrokerID)
	}
	if !slices.Contains(ids, p.Leader) {
		return nil, refuse(command.ErrInvalid, "partition %s: the ISR lacks the leader %d", ch.Partition, p.Leader)
	}
	return ids, nil
}

// checkCold checks the replicas that a leader calls cold.
func checkCold(p *metadata.Partition, ch *command.ISRChange) error {
	for i, id := range ch.Cold {
		switch {
		case !p.HasReplica(id):
			return refuse(command.ErrInvalid, "partition %s: broker %d is cold but no replica", ch.Partition, id)
		case slices.Contains(ch.Cold[:i], id):
			return refuse(command.ErrInvalid, "partition %s: broker %d is cold twice", ch.Partition, id)
		}
	}
	return nil
}

func (t *txn) electLeaders(c *command.ElectLeaders) (command.Result, error) {
	return each(len(c.Elections), func(i int) (command.ItemResult, error) {
		e := &c.Elections[i]
		p := t.ed.Partition(e.Partition)
		if p == nil {
			return command.ItemResult{}, refuse(command.ErrNotFound, "partition %s does not exist", e.Partition)
		}
		if e.PartitionEpoch != -1 {
			if err := checkPartitionEpoch(e.Partition, p, e.PartitionEpoch); err != nil {
				return command.ItemResult{}, err
			}
		}
		how, err := t.election(p, e)
		if err != nil {
			return command.ItemResult{}, err
		}
		return t.elected(e, p, how)
	})
}

// elected carries an election out, and refuses one that finds nobody.
func (t *txn) elected(e *command.Election, p *metadata.Partition, how settlement) (command.ItemResult, error) {
	next := t.settle(p, p, t.policy(t.ed.Topic(e.Partition.Topic)), how)
	switch {
	case next.Leader < 0:
		return command.ItemResult{}, refuse(command.ErrNoEligibleLeader, "partition %s: no active replica may lead", e.Partition)
	case how.prefer >= 0 && next.Leader != how.prefer:
		return command.ItemResult{}, refuse(command.ErrIneligibleReplica, "partition %s: broker %d is no replica that may lead", e.Partition, how.prefer)
	}
	if err := t.store(e.Partition, p, next); err != nil {
		return command.ItemResult{}, err
	}
	return command.ItemResult{LeaderEpoch: next.LeaderEpoch, PartitionEpoch: next.PartitionEpoch}, nil
}

// election refuses what is not needed and says how to elect.
func (t *txn) election(p *metadata.Partition, e *command.Election) (settlement, error) {
	how := byOrder
	how.prefer = max(e.Leader, -1)
	switch e.Kind {
	case command.ElectPreferred:
		how.prefer = p.Target()[0]
		switch {
		case p.Leader == how.prefer:
			return how, refuse(command.ErrElectionNotNeeded, "partition %s is led by the preferred broker %d", e.Partition, p.Leader)
		case !t.ed.Broker(how.prefer).Eligible() || !p.InSync(how.prefer):
			return how, refuse(command.ErrPreferredUnavailable, "partition %s: the preferred broker %d is not active or not in sync", e.Partition, how.prefer)
		}
	case command.ElectUnclean:
		how.unclean = true
		if p.Leader >= 0 {
			return how, refuse(command.ErrElectionNotNeeded, "partition %s is led by broker %d", e.Partition, p.Leader)
		}
	case command.ElectClean:
		if p.Leader >= 0 && (how.prefer < 0 || how.prefer == p.Leader) {
			return how, refuse(command.ErrElectionNotNeeded, "partition %s is led by broker %d", e.Partition, p.Leader)
		}
	default:
		return how, refuse(command.ErrInvalid, "partition %s: election of kind %d", e.Partition, e.Kind)
	}
	return how, nil
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
