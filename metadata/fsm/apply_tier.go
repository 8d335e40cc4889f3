package fsm

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm/statepb"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

func getObject(r pebble.Reader, id uuid.UUID) (metadata.Object, bool, error) {
	var m statepb.Object
	ok, err := getValue(r, objectKey(id), &m)
	if err != nil || !ok {
		return metadata.Object{}, false, err
	}
	o, err := objectFromProto(id, &m)
	return o, err == nil, err
}

// putObject writes an object and keeps its pending key in step with its state.
func (t *txn) putObject(o *metadata.Object) error {
	if err := t.put(objectKey(o.ID), objectToProto(o)); err != nil {
		return err
	}
	if o.State == metadata.ObjectFinished {
		return t.delete(pendingKey(o.ID))
	}
	return t.batch.Set(pendingKey(o.ID), nil, nil)
}

// scanPending calls fn for each object that is copying or deleting.
func scanPending(r pebble.Reader, fn func(metadata.Object) error) error {
	return scan(r, []byte(prefixPending), func(key, _ []byte) error {
		k, err := keyTail(key, prefixPending, 16)
		if err != nil {
			return err
		}
		o, ok, err := getObject(r, uuid.UUID(k))
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%w: pending object %s is unknown", command.ErrCorrupt, uuid.UUID(k))
		}
		return fn(o)
	})
}

// fence checks that the broker is what it says and leads the partition.
func (t *txn) fence(f command.Fence, tp record.TopicPartition) (*metadata.Partition, error) {
	if _, err := t.broker(f.BrokerID, f.BrokerEpoch); err != nil {
		return nil, err
	}
	return t.led(tp, f.BrokerID, f.LeaderEpoch)
}

func (t *txn) copyStarted(c *command.CopyStarted) (command.Result, error) {
	if c.Object == uuid.Nil {
		return command.Result{}, refuse(command.ErrInvalid, "copy of %s names no object", c.Partition)
	}
	old, ok, err := getObject(t.batch, c.Object)
	if err != nil {
		return command.Result{}, err
	}
	if ok {
		if old.State == metadata.ObjectCopying && old.Partition == c.Partition && old.Start == c.Start && old.End == c.End &&
			old.BrokerID == c.BrokerID && old.BrokerEpoch == c.BrokerEpoch && old.LeaderEpoch == c.LeaderEpoch {
			return command.Result{}, nil
		}
		return command.Result{}, refuse(command.ErrExists, "object %s is %s already", c.Object, old.State)
	}
	p, err := t.fence(c.Fence, c.Partition)
	if err != nil {
		return command.Result{}, err
	}
	if c.Start != p.CopyStart() || c.End <= c.Start {
		return command.Result{}, refuse(command.ErrRange, "copy [%d, %d) of %s does not begin at %d", c.Start, c.End, c.Partition, p.CopyStart())
	}
	return command.Result{}, t.putObject(&metadata.Object{ID: c.Object, State: metadata.ObjectCopying, Store: c.Store, Partition: c.Partition,
		Start: c.Start, End: c.End, LeaderEpoch: c.LeaderEpoch, BrokerID: c.BrokerID, BrokerEpoch: c.BrokerEpoch,
		Generation: c.Generation, Intent: t.index, StartedAt: c.Time})
}

func (t *txn) copyFinished(c *command.CopyFinished) (command.Result, error) {
	o, ok, err := getObject(t.batch, c.Object)
	if err != nil {
		return command.Result{}, err
	}
	switch {
	case !ok:
		return command.Result{}, refuse(command.ErrNotFound, "object %s has no intent", c.Object)
	case o.Partition != c.Partition || o.Start != c.Entry.Start || o.End != c.Entry.End:
		return command.Result{}, refuse(command.ErrRange, "object %s was begun for [%d, %d) of %s", c.Object, o.Start, o.End, o.Partition)
	case o.State == metadata.ObjectFinished:
		return command.Result{Applied: true}, nil
	case o.State == metadata.ObjectDeleting:
		return command.Result{Objects: []uuid.UUID{c.Object}}, nil
	}
	if t.ed.Topic(c.Partition.Topic) == nil {
		return t.dropCopy(&o, c)
	}
	p, err := t.fence(c.Fence, c.Partition)
	if err != nil {
		return command.Result{}, err
	}
	entry := c.Entry
	entry.Object, entry.FinishedAt, entry.State = c.Object, c.Time, manifest.StateLive
	if err := checkCopied(p, &entry, c); err != nil {
		return command.Result{}, err
	}
	if entry.End <= p.LogStart {
		return t.dropCopy(&o, c)
	}
	if err := t.put(entryKey(c.Partition, entry.Start), entryToProto(&entry)); err != nil {
		return command.Result{}, err
	}
	if err := t.batch.Set(refKey(c.Object, c.Partition, entry.Start), nil, nil); err != nil {
		return command.Result{}, err
	}
	o.State = metadata.ObjectFinished
	o.Size, o.Footer, o.Checksum, o.FinishedAt = c.Size, c.Footer, c.Checksum, c.Time
	if err := t.putObject(&o); err != nil {
		return command.Result{}, err
	}
	next := *p
	next.RemoteEnd, next.RemoteEpoch = entry.End, entry.LastEpoch()
	t.ed.TouchEntries(c.Partition)
	return command.Result{Applied: true}, t.putPartition(c.Partition, &next)
}

// checkCopied refuses an entry that contradicts itself or does not follow the
// remote end. The log start may have risen since the copy began.
func checkCopied(p *metadata.Partition, e *manifest.Entry, c *command.CopyFinished) error {
	if err := e.Validate(); err != nil {
		return refuse(command.ErrInvalid, "copy of %s: %v", c.Partition, err)
	}
	switch {
	case e.LastEpoch() > p.LeaderEpoch || e.LastEpoch() < p.RemoteEpoch:
		return refuse(command.ErrInvalid, "copy of %s ends in leader epoch %d, outside [%d, %d]", c.Partition, e.LastEpoch(), p.RemoteEpoch, p.LeaderEpoch)
	case c.Size <= 0 || c.Footer < 0 || c.Footer > c.Size:
		return refuse(command.ErrInvalid, "object %s has %d bytes and its footer at %d", c.Object, c.Size, c.Footer)
	case e.Start < p.RemoteEnd || e.Start > p.CopyStart():
		return refuse(command.ErrRange, "copy [%d, %d) of %s: remote end is %d, log start %d", e.Start, e.End, c.Partition, p.RemoteEnd, p.LogStart)
	}
	return nil
}

// dropCopy sends a finished upload that nobody will read to deletion.
func (t *txn) dropCopy(o *metadata.Object, c *command.CopyFinished) (command.Result, error) {
	o.State = metadata.ObjectDeleting
	o.Size, o.Footer, o.Checksum = c.Size, c.Footer, c.Checksum
	o.FinishedAt, o.DeletingSince = c.Time, c.Time
	return command.Result{Objects: []uuid.UUID{o.ID}}, t.putObject(o)
}

func (t *txn) copyAbandoned(c *command.CopyAbandoned) (command.Result, error) {
	if _, err := t.broker(c.BrokerID, c.BrokerEpoch); err != nil {
		return command.Result{}, err
	}
	o, ok, err := getObject(t.batch, c.Object)
	switch {
	case err != nil || !ok || o.State == metadata.ObjectDeleting:
		return command.Result{}, err
	case o.State == metadata.ObjectFinished:
		return command.Result{}, refuse(command.ErrInvalid, "object %s is finished", c.Object)
	}
	o.State, o.DeletingSince = metadata.ObjectDeleting, c.Time
	return command.Result{Objects: []uuid.UUID{o.ID}}, t.putObject(&o)
}

func (t *txn) deleteStarted(c *command.DeleteStarted) (command.Result, error) {
	if _, err := t.broker(c.BrokerID, c.BrokerEpoch); err != nil {
		return command.Result{}, err
	}
	var dropped []uuid.UUID
	res, err := each(len(c.Entries), func(i int) (command.ItemResult, error) {
		last, err := t.deleteEntry(&c.Entries[i], c.Time)
		if last {
			dropped = append(dropped, c.Entries[i].Object)
		}
		return command.ItemResult{}, err
	})
	res.Objects = dropped
	return res, err
}

// deleteEntry removes an expired entry; last says that its object has no other
// reference and goes to deletion.
func (t *txn) deleteEntry(k *command.EntryKey, now int64) (last bool, err error) {
	var m statepb.Entry
	key := entryKey(k.Partition, k.Start)
	ok, err := getValue(t.batch, key, &m)
	if err != nil || !ok {
		return false, err
	}
	e, err := entryFromProto(k.Start, &m)
	if err != nil || e.Object != k.Object {
		return false, err
	}
	if p := t.ed.Partition(k.Partition); p != nil && e.End > p.LogStart {
		return false, refuse(command.ErrRange, "entry [%d, %d) of %s is above the log start %d", e.Start, e.End, k.Partition, p.LogStart)
	}
	if err := errors.Join(t.delete(key), t.delete(refKey(k.Object, k.Partition, k.Start))); err != nil {
		return false, err
	}
	t.ed.TouchEntries(k.Partition)
	referenced, err := hasAny(t.batch, refsPrefix(k.Object))
	if err != nil || referenced {
		return false, err
	}
	o, ok, err := getObject(t.batch, k.Object)
	if err != nil {
		return false, err
	}
	if !ok {
		return false, fmt.Errorf("%w: entry %d of %s refers to the unknown object %s", command.ErrCorrupt, k.Start, k.Partition, k.Object)
	}
	o.State, o.DeletingSince = metadata.ObjectDeleting, now
	return true, t.putObject(&o)
}

func (t *txn) deleteFinished(c *command.DeleteFinished) (command.Result, error) {
	if _, err := t.broker(c.BrokerID, c.BrokerEpoch); err != nil {
		return command.Result{}, err
	}
	return each(len(c.Objects), func(i int) (command.ItemResult, error) {
		id := c.Objects[i]
		o, ok, err := getObject(t.batch, id)
		if err != nil || !ok {
			return command.ItemResult{}, err
		}
		if o.State != metadata.ObjectDeleting {
			return command.ItemResult{}, refuse(command.ErrInvalid, "object %s is %s, not being deleted", id, o.State)
		}
		return command.ItemResult{}, errors.Join(t.delete(objectKey(id)), t.delete(pendingKey(id)))
	})
}
