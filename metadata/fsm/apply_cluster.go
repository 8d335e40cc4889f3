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
	t.ed.SetClusterID(c.ClusterID)
	for name, level := range c.Features {
		t.ed.SetFeature(name, level, int64(t.index))
	}
	t.clusterDirty = true
	return command.Result{}, nil
}

func (t *txn) updateFeatures(c *command.UpdateFeatures) (command.Result, error) {
	for _, u := range c.Updates {
		have := t.ed.Feature(u.Name)
		switch {
		case u.Name == "" || u.Level < 0:
			return command.Result{}, refuse(command.ErrInvalid, "feature %q at level %d", u.Name, u.Level)
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
		Rack: c.Rack, Endpoints: slices.Clone(c.Endpoints), Features: c.Features, Version: c.Version, Fenced: true, RegisteredAt: c.Time}
	if err := t.putBroker(b); err != nil {
		return command.Result{}, err
	}
	return command.Result{BrokerEpoch: b.Epoch}, nil
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
	case command.BrokerActive:
		b.Fenced, b.ShuttingDown = false, false
	case command.BrokerShuttingDown:
		b.ShuttingDown = true
	default:
		return command.Result{}, refuse(command.ErrInvalid, "broker %d: unknown state %d", c.BrokerID, c.State)
	}
	if b.Fenced == old.Fenced && b.ShuttingDown == old.ShuttingDown {
		return command.Result{BrokerEpoch: b.Epoch}, nil
	}
	return command.Result{BrokerEpoch: b.Epoch}, t.putBroker(&b)
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
