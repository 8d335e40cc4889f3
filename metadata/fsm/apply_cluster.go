package fsm

import (
	"math"
	"slices"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

func (t *txn) formatCluster(c *command.FormatCluster) (command.Result, error) {
	switch have := t.ed.ClusterID(); {
	case c.ClusterID == "":
		return command.Result{}, refuse(command.ErrInvalid, "cluster id is empty")
	case have == c.ClusterID:
		return command.Result{}, nil
	case have != "":
		return command.Result{}, refuse(command.ErrExists, "cluster is %s, not %s", have, c.ClusterID)
	}
	if err := checkLevel(command.LevelOf(c.Features)); err != nil {
		return command.Result{}, err
	}
	t.ed.SetClusterID(c.ClusterID)
	for name, level := range c.Features {
		t.ed.SetFeature(name, level, int64(t.index))
	}
	t.clusterDirty = true
	if len(c.Configs) == 0 {
		return command.Result{}, nil
	}
	defaults := metadata.ConfigResource{Kind: metadata.ResourceBroker}
	return command.Result{}, t.alterConfig(&command.ConfigChange{Resource: defaults, Set: c.Configs})
}

func (t *txn) updateFeatures(c *command.UpdateFeatures) (command.Result, error) {
	for _, u := range c.Updates {
		have := t.ed.Feature(u.Name)
		switch {
		case u.Name == "" || u.Level < 0:
			return command.Result{}, refuse(command.ErrInvalid, "feature %q at level %d", u.Name, u.Level)
		case u.Name == command.Feature && u.Level < have:
			return command.Result{}, refuse(command.ErrFeature, "feature %s is at level %d and does not go down: what was written since is not known at level %d", u.Name, have, u.Level)
		case u.Level < have && !u.Downgrade:
			return command.Result{}, refuse(command.ErrFeature, "feature %s is at level %d: going down to %d needs a downgrade", u.Name, have, u.Level)
		}
		for _, id := range t.ed.Brokers() {
			if u.Level == 0 {
				break
			}
			if r, ok := t.ed.Broker(id).Features[u.Name]; !ok || u.Level < r.Min || u.Level > r.Max {
				return command.Result{}, refuse(command.ErrFeature, "feature %s at level %d: broker %d supports %d to %d", u.Name, u.Level, id, r.Min, r.Max)
			}
		}
	}
	for _, u := range c.Updates {
		if u.Name == command.Feature {
			if err := checkLevel(command.Level(u.Level)); err != nil {
				return command.Result{}, err
			}
		}
		if u.Level != t.ed.Feature(u.Name) {
			t.ed.SetFeature(u.Name, u.Level, int64(t.index))
			t.clusterDirty = true
		}
	}
	return command.Result{}, nil
}

func (t *txn) registerBroker(c *command.RegisterBroker) (command.Result, error) {
	if c.BrokerID < 0 {
		return command.Result{}, refuse(command.ErrInvalid, "broker id %d is negative", c.BrokerID)
	}
	old := t.ed.Broker(c.BrokerID)
	switch {
	case old == nil:
	case old.DirectoryID == c.DirectoryID && old.Incarnation == c.Incarnation:
		return command.Result{BrokerEpoch: old.Epoch}, nil
	case old.DirectoryID != c.DirectoryID && !old.Fenced:
		return command.Result{}, refuse(command.ErrDuplicateBroker, "broker id %d is in use by directory %s, which is not fenced", c.BrokerID, old.DirectoryID)
	}
	for name, level := range t.ed.Features() {
		if r, ok := c.Features[name]; !ok || level < r.Min || level > r.Max {
			return command.Result{}, refuse(command.ErrFeature, "broker %d supports feature %s from %d to %d, the cluster is at %d", c.BrokerID, name, r.Min, r.Max, level)
		}
	}
	b := &metadata.Broker{ID: c.BrokerID, DirectoryID: c.DirectoryID, Incarnation: c.Incarnation, Epoch: int64(t.index),
		Rack: c.Rack, Endpoints: slices.Clone(c.Endpoints), Features: c.Features, Version: c.Version, Fenced: true, RegisteredAt: c.Time,
		ClusterAddress: c.ClusterAddress}
	if err := t.putBroker(b); err != nil {
		return command.Result{}, err
	}
	wiped := old == nil || old.DirectoryID != c.DirectoryID
	return command.Result{BrokerEpoch: b.Epoch}, t.settleBroker(b.ID, func(p *metadata.Partition, policy metadata.Policy) settlement {
		replicated := policy.Durability == "replicated" || policy.Durability == "" && c.ReplicatedByDefault
		if !wiped && !(c.Untrusted && replicated) {
			return byOrder
		}
		if wiped && t.atLevel2() && p.RemoteEnd > p.LogStart {
			p.Cold = inOrder(p.Replicas, append(slices.Clone(p.Cold), b.ID)) // it begins where the bucket ends
		}
		return discount(p, b.ID, wiped)
	})
}

// discount takes a broker, whose records count no longer, out of ISR and ELR. A wiped
// one was fenced before, so it leads nothing: all that is left is that it once led.
func discount(p *metadata.Partition, broker int32, wiped bool) settlement {
	p.ISR, p.ELR = remove(p.ISR, []int32{broker}), remove(p.ELR, []int32{broker})
	if wiped && p.LastKnownLeader == broker {
		p.LastKnownLeader = -1
	}
	return settlement{prefer: -1, gone: broker}
}

// settleBroker settles every partition that the broker is a replica of.
func (t *txn) settleBroker(id int32, edit func(*metadata.Partition, metadata.Policy) settlement) error {
	return t.settleAll(func(p *metadata.Partition) bool { return p.HasReplica(id) }, edit)
}

func (t *txn) unregisterBroker(c *command.UnregisterBroker) (command.Result, error) {
	b := t.ed.Broker(c.BrokerID)
	switch {
	case b == nil:
		return command.Result{}, refuse(command.ErrNotFound, "broker %d is not registered", c.BrokerID)
	case c.BrokerEpoch != -1 && c.BrokerEpoch != b.Epoch:
		return command.Result{}, refuse(command.ErrStaleBrokerEpoch, "broker %d has epoch %d, not %d", b.ID, b.Epoch, c.BrokerEpoch)
	case !b.Fenced:
		return command.Result{}, refuse(command.ErrInvalid, "broker %d is alive: stop it first", b.ID)
	}
	err := t.ed.EachPartition(func(topic *metadata.Topic, n int32, p *metadata.Partition) error {
		complete := append(slices.Clone(p.ISR), p.ELR...)
		if len(complete) > 0 && isSubset(complete, []int32{b.ID}) {
			return refuse(command.ErrLastReplica, "broker %d alone has all records of %s-%d: bring it back, delete the topic, or elect another leader uncleanly", b.ID, topic.Name, n)
		}
		return nil
	})
	if err != nil {
		return command.Result{}, err
	}
	if err := t.delete(brokerKey(b.ID)); err != nil {
		return command.Result{}, err
	}
	t.ed.DeleteBroker(b.ID)
	return command.Result{BrokerEpoch: b.Epoch}, t.settleBroker(b.ID, func(p *metadata.Partition, _ metadata.Policy) settlement {
		return discount(p, b.ID, true)
	})
}

func (t *txn) putBroker(b *metadata.Broker) error {
	if err := t.put(brokerKey(b.ID), brokerToProto(b)); err != nil {
		return err
	}
	t.ed.PutBroker(b)
	return nil
}

// broker checks a broker's epoch.
func (t *txn) broker(id int32, epoch int64) (*metadata.Broker, error) {
	b := t.ed.Broker(id)
	if b == nil {
		return nil, refuse(command.ErrStaleBrokerEpoch, "broker %d is not registered", id)
	}
	if b.Epoch != epoch {
		return nil, refuse(command.ErrStaleBrokerEpoch, "broker %d has epoch %d, not %d", id, b.Epoch, epoch)
	}
	return b, nil
}

func (t *txn) setBrokerState(c *command.SetBrokerState) (command.Result, error) {
	old, err := t.broker(c.BrokerID, c.BrokerEpoch)
	if err != nil {
		return command.Result{}, err
	}
	b := *old
	switch c.State {
	case command.BrokerFenced:
		b.Fenced = true
	case command.BrokerActive, command.BrokerFull:
		switch {
		case c.State == command.BrokerFull && !t.atLevel2():
			return command.Result{}, refuse(command.ErrInvalid, "broker %d: unknown state %d", c.BrokerID, c.State)
		case b.ShuttingDown:
			return command.Result{}, refuse(command.ErrInvalid, "broker %d is shutting down: it has to register again", b.ID)
		}
		b.Fenced, b.Full = false, c.State == command.BrokerFull
	case command.BrokerShuttingDown:
		b.ShuttingDown = true
	default:
		return command.Result{}, refuse(command.ErrInvalid, "broker %d: unknown state %d", c.BrokerID, c.State)
	}
	if b.Fenced == old.Fenced && b.ShuttingDown == old.ShuttingDown && b.Full == old.Full {
		return command.Result{BrokerEpoch: b.Epoch}, nil
	}
	if err := t.putBroker(&b); err != nil {
		return command.Result{}, err
	}
	return command.Result{BrokerEpoch: b.Epoch}, t.settleBroker(b.ID, nil)
}

func (t *txn) allocateProducerIDs(c *command.AllocateProducerIDs) (command.Result, error) {
	if _, err := t.broker(c.BrokerID, c.BrokerEpoch); err != nil {
		return command.Result{}, err
	}
	first := t.cluster.nextProducerID
	if first > math.MaxInt64-command.ProducerIDBlockSize {
		return command.Result{}, refuse(command.ErrInvalid, "producer ids are used up at %d", first)
	}
	t.cluster.nextProducerID = first + command.ProducerIDBlockSize
	t.clusterDirty = true
	return command.Result{ProducerIDs: command.ProducerIDBlock{First: first, Count: command.ProducerIDBlockSize}}, nil
}
