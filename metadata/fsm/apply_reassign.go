package fsm

import (
	"slices"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

func (t *txn) alterReassignments(c *command.AlterReassignments) (command.Result, error) {
	return each(len(c.Items), func(i int) (command.ItemResult, error) {
		it := &c.Items[i]
		p := t.ed.Partition(it.Partition)
		if p == nil {
			return command.ItemResult{}, refuse(command.ErrNotFound, "partition %s does not exist", it.Partition)
		}
		want, err := t.reassigned(p, it, c.KeepFactor)
		if err != nil {
			return command.ItemResult{}, err
		}
		if len(p.ISR)+len(p.ELR) > 0 && len(want.ISR)+len(want.ELR) == 0 {
			return command.ItemResult{}, refuse(command.ErrInvalidAssignment, "partition %s: only %v has all records, and would be dropped", it.Partition, p.ISR)
		}
		return t.settled(it.Partition, want, byOrder)
	})
}

// reassigned edits a partition to begin, change or cancel a reassignment.
func (t *txn) reassigned(p *metadata.Partition, it *command.Reassignment, keepFactor bool) (*metadata.Partition, error) {
	want, origin := *p, p.Origin()
	if it.Replicas == nil {
		if !p.Reassigning() {
			return nil, refuse(command.ErrNoReassignment, "partition %s: no reassignment is under way", it.Partition)
		}
		want.Replicas, want.Adding, want.Removing = origin, nil, nil
	} else {
		if err := t.checkTarget(it, len(origin), keepFactor); err != nil {
			return nil, err
		}
		want.Adding, want.Removing = remove(it.Replicas, origin), remove(origin, it.Replicas)
		want.Replicas = append(slices.Clone(it.Replicas), want.Removing...)
	}
	// What an earlier target added and this one does not want goes at once: it never
	// was a replica that anybody relied on by name, and a cancelled reassignment must
	// find the way back.
	want.ISR, want.ELR = inOrder(want.Replicas, p.ISR), inOrder(want.Replicas, p.ELR)
	return &want, nil
}

func (t *txn) checkTarget(it *command.Reassignment, factor int, keepFactor bool) error {
	switch {
	case len(it.Replicas) == 0:
		return refuse(command.ErrInvalidAssignment, "partition %s: the target has no replicas", it.Partition)
	case keepFactor && len(it.Replicas) != factor:
		return refuse(command.ErrInvalidAssignment, "partition %s has %d replicas, the target %d", it.Partition, factor, len(it.Replicas))
	}
	for i, id := range it.Replicas {
		switch {
		case slices.Contains(it.Replicas[:i], id):
			return refuse(command.ErrInvalidAssignment, "partition %s names broker %d twice", it.Partition, id)
		case t.ed.Broker(id) == nil:
			return refuse(command.ErrInvalidAssignment, "partition %s: broker %d is not registered", it.Partition, id)
		}
	}
	return nil
}
