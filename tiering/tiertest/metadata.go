// Package tiertest stands in for the metadata when tiering is tested: a naive
// model in memory of what the state machine does with the copy and delete
// commands, by their documentation in metadata/command.
package tiertest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// Partition is what the model knows of one.
type Partition struct {
	Leader      int32
	LeaderEpoch record.Epoch
	Manifest    manifest.Manifest
	Deleted     bool // its topic has a tombstone
}

// Metadata is the model. It is not safe for concurrent use; a test that needs
// that wraps it.
type Metadata struct {
	Parts   map[record.TopicPartition]*Partition
	Epochs  map[int32]int64 // of registered brokers
	Known   map[uuid.UUID]*metadata.Object
	Tombs   map[record.TopicID]metadata.Tombstone
	Applied []command.Command // in order, refused ones not
	index   uint64
}

// New makes an empty model.
func New() *Metadata {
	return &Metadata{
		Parts: map[record.TopicPartition]*Partition{}, Epochs: map[int32]int64{},
		Known: map[uuid.UUID]*metadata.Object{}, Tombs: map[record.TopicID]metadata.Tombstone{},
	}
}

func refuse(base *command.Error, format string, args ...any) error {
	return &command.Error{Code: base.Code, Message: fmt.Sprintf(format, args...)}
}

// Propose applies a command.
func (m *Metadata) Propose(ctx context.Context, cmd command.Command) (command.Result, error) {
	if err := ctx.Err(); err != nil {
		return command.Result{}, err
	}
	m.index++
	res, err := m.apply(cmd)
	if err != nil {
		return command.Result{}, err
	}
	res.Index = m.index
	m.Applied = append(m.Applied, cmd)
	return res, nil
}

func (m *Metadata) apply(cmd command.Command) (command.Result, error) {
	switch c := cmd.(type) {
	case *command.CopyStarted:
		return m.copyStarted(c)
	case *command.CopyFinished:
		return m.copyFinished(c)
	case *command.CopyAbandoned:
		return command.Result{}, m.copyAbandoned(c)
	case *command.AdvanceLogStart:
		return m.advance(c)
	case *command.DeleteStarted:
		return m.deleteStarted(c)
	case *command.DeleteFinished:
		return m.deleteFinished(c)
	case *command.PurgeTopic:
		return command.Result{}, m.purge(c)
	}
	return command.Result{}, refuse(command.ErrInvalid, "the model does not know %s", cmd.Kind())
}

func (m *Metadata) broker(id int32, epoch int64) error {
	if m.Epochs[id] != epoch {
		return refuse(command.ErrStaleBrokerEpoch, "broker %d has epoch %d, not %d", id, m.Epochs[id], epoch)
	}
	return nil
}

func (m *Metadata) fence(f command.Fence, tp record.TopicPartition) (*Partition, error) {
	if err := m.broker(f.BrokerID, f.BrokerEpoch); err != nil {
		return nil, err
	}
	p := m.Parts[tp]
	switch {
	case p == nil || p.Deleted:
		return nil, refuse(command.ErrNotFound, "no partition %v", tp)
	case p.Leader != f.BrokerID:
		return nil, refuse(command.ErrNotLeader, "broker %d leads", p.Leader)
	case p.LeaderEpoch != f.LeaderEpoch:
		return nil, refuse(command.ErrStaleLeaderEpoch, "leader epoch is %d", p.LeaderEpoch)
	}
	return p, nil
}

func (m *Metadata) copyStarted(c *command.CopyStarted) (command.Result, error) {
	if o := m.Known[c.Object]; o != nil {
		if o.State == metadata.ObjectCopying && o.Partition == c.Partition && o.Start == c.Start && o.End == c.End {
			return command.Result{}, nil
		}
		return command.Result{}, refuse(command.ErrExists, "object is %v", o.State)
	}
	p, err := m.fence(c.Fence, c.Partition)
	if err != nil {
		return command.Result{}, err
	}
	if c.Start != p.Manifest.CopyStart() || c.End <= c.Start {
		return command.Result{}, refuse(command.ErrRange, "copy begins at %d, not %d", p.Manifest.CopyStart(), c.Start)
	}
	m.Known[c.Object] = &metadata.Object{ID: c.Object, State: metadata.ObjectCopying, Store: c.Store, Partition: c.Partition,
		Start: c.Start, End: c.End, LeaderEpoch: c.LeaderEpoch, BrokerID: c.BrokerID, BrokerEpoch: c.BrokerEpoch, StartedAt: c.Time}
	return command.Result{}, nil
}

func (m *Metadata) copyFinished(c *command.CopyFinished) (command.Result, error) {
	o := m.Known[c.Object]
	switch {
	case o == nil:
		return command.Result{}, refuse(command.ErrNotFound, "no intent")
	case o.Start != c.Entry.Start || o.End != c.Entry.End:
		return command.Result{}, refuse(command.ErrRange, "not the intent's range")
	case o.State == metadata.ObjectFinished:
		return command.Result{Applied: true}, nil
	case o.State == metadata.ObjectDeleting:
		return command.Result{}, nil
	}
	p, err := m.fence(c.Fence, c.Partition)
	if err != nil {
		return command.Result{}, err
	}
	e := c.Entry
	e.Object, e.FinishedAt = c.Object, c.Time
	next, added, err := p.Manifest.WithCopied(e)
	if err != nil {
		return command.Result{}, refuse(command.ErrRange, "%v", err)
	}
	p.Manifest = next
	o.Size, o.Footer, o.Checksum, o.FinishedAt = c.Size, c.Footer, c.Checksum, c.Time
	o.State = metadata.ObjectFinished
	if !added {
		o.State, o.DeletingSince = metadata.ObjectDeleting, c.Time
	}
	return command.Result{Applied: added}, nil
}

func (m *Metadata) copyAbandoned(c *command.CopyAbandoned) error {
	if err := m.broker(c.BrokerID, c.BrokerEpoch); err != nil {
		return err
	}
	o := m.Known[c.Object]
	if o == nil || o.State == metadata.ObjectDeleting {
		return nil
	}
	if o.State == metadata.ObjectFinished {
		return refuse(command.ErrInvalid, "object is finished")
	}
	o.State, o.DeletingSince = metadata.ObjectDeleting, c.Time
	return nil
}

func (m *Metadata) advance(c *command.AdvanceLogStart) (command.Result, error) {
	if err := m.broker(c.BrokerID, c.BrokerEpoch); err != nil {
		return command.Result{}, err
	}
	res := command.Result{}
	for _, change := range c.Partitions {
		p, err := m.fence(command.Fence{BrokerID: c.BrokerID, BrokerEpoch: c.BrokerEpoch, LeaderEpoch: change.LeaderEpoch}, change.Partition)
		if err == nil {
			p.Manifest = p.Manifest.WithLogStart(change.LogStart)
		}
		res.Items = append(res.Items, command.ItemResult{Err: err})
	}
	return res, nil
}

func (m *Metadata) deleteStarted(c *command.DeleteStarted) (command.Result, error) {
	if err := m.broker(c.BrokerID, c.BrokerEpoch); err != nil {
		return command.Result{}, err
	}
	res := command.Result{}
	for _, k := range c.Entries {
		res.Items = append(res.Items, command.ItemResult{Err: m.deleteEntry(k, c.Time)})
	}
	return res, nil
}

func (m *Metadata) deleteEntry(k command.EntryKey, now int64) error {
	p := m.Parts[k.Partition]
	if p == nil {
		return nil
	}
	next, err := p.Manifest.Without(k.Start)
	switch {
	case errors.Is(err, manifest.ErrNotFound):
		return nil
	case err != nil:
		return refuse(command.ErrRange, "%v", err)
	}
	p.Manifest = next
	o := m.Known[k.Object]
	o.State, o.DeletingSince = metadata.ObjectDeleting, now
	return nil
}

func (m *Metadata) deleteFinished(c *command.DeleteFinished) (command.Result, error) {
	if err := m.broker(c.BrokerID, c.BrokerEpoch); err != nil {
		return command.Result{}, err
	}
	res := command.Result{}
	for _, id := range c.Objects {
		var err error
		if o := m.Known[id]; o != nil && o.State != metadata.ObjectDeleting {
			err = refuse(command.ErrInvalid, "object is %v", o.State)
		} else {
			delete(m.Known, id)
		}
		res.Items = append(res.Items, command.ItemResult{Err: err})
	}
	return res, nil
}

func (m *Metadata) purge(c *command.PurgeTopic) error {
	for tp, p := range m.Parts {
		if tp.Topic == c.Topic && len(p.Manifest.Entries()) > 0 {
			return refuse(command.ErrNotEmpty, "%v has entries", tp)
		}
	}
	for _, o := range m.Known {
		if o.Partition.Topic == c.Topic {
			return refuse(command.ErrNotEmpty, "object %v is %v", o.ID, o.State)
		}
	}
	delete(m.Tombs, c.Topic)
	return nil
}

// DeleteTopic leaves a tombstone, as DeleteTopics does: all entries expire.
func (m *Metadata) DeleteTopic(id record.TopicID, partitions int32) {
	m.Tombs[id] = metadata.Tombstone{Topic: id, Partitions: partitions}
	for tp, p := range m.Parts {
		if tp.Topic == id {
			p.Deleted = true
			p.Manifest = p.Manifest.WithLogStart(max(p.Manifest.LogStart(), p.Manifest.RemoteEnd()))
		}
	}
}

// Elect makes broker the leader of tp in a new epoch.
func (m *Metadata) Elect(tp record.TopicPartition, broker int32) {
	p := m.Parts[tp]
	p.Leader = broker
	p.LeaderEpoch++
}

// Register gives broker a new epoch and returns it.
func (m *Metadata) Register(broker int32) int64 {
	m.index++
	m.Epochs[broker] = int64(m.index)
	return m.Epochs[broker]
}

// BrokerEpoch is the epoch of a registered broker; false if there is none.
func (m *Metadata) BrokerEpoch(id int32) (int64, bool) {
	e, ok := m.Epochs[id]
	return e, ok
}

// LeaderEpoch is that of a partition; false if there is no such partition now.
func (m *Metadata) LeaderEpoch(tp record.TopicPartition) (record.Epoch, bool) {
	p := m.Parts[tp]
	if p == nil || p.Deleted {
		return -1, false
	}
	return p.LeaderEpoch, true
}

// LogStarts iterates over the partitions of topics that exist.
func (m *Metadata) LogStarts() iter.Seq2[record.TopicPartition, record.Offset] {
	return func(yield func(record.TopicPartition, record.Offset) bool) {
		for _, tp := range m.sorted() {
			if p := m.Parts[tp]; !p.Deleted && !yield(tp, p.Manifest.LogStart()) {
				return
			}
		}
	}
}

func (m *Metadata) sorted() []record.TopicPartition {
	var tps []record.TopicPartition
	for tp := range m.Parts {
		tps = append(tps, tp)
	}
	slices.SortFunc(tps, func(a, b record.TopicPartition) int { return strings.Compare(a.String(), b.String()) })
	return tps
}

// ReadBarrier does nothing: the model has one copy.
func (m *Metadata) ReadBarrier(ctx context.Context) error { return ctx.Err() }

// Entries are a partition's.
func (m *Metadata) Entries(_ context.Context, tp record.TopicPartition) (manifest.Manifest, error) {
	if p := m.Parts[tp]; p != nil {
		return p.Manifest, nil
	}
	return manifest.Manifest{}, nil
}

// Object is what is known of one.
func (m *Metadata) Object(_ context.Context, id uuid.UUID) (metadata.Object, bool, error) {
	if o := m.Known[id]; o != nil {
		return *o, true, nil
	}
	return metadata.Object{}, false, nil
}

// Objects iterates over all objects by id.
func (m *Metadata) Objects(context.Context) iter.Seq2[metadata.Object, error] {
	return m.objects(func(*metadata.Object) bool { return true })
}

// PendingObjects iterates over the objects that are copying or deleting.
func (m *Metadata) PendingObjects(context.Context) iter.Seq2[metadata.Object, error] {
	return m.objects(func(o *metadata.Object) bool { return o.State != metadata.ObjectFinished })
}

func (m *Metadata) objects(keep func(*metadata.Object) bool) iter.Seq2[metadata.Object, error] {
	var found []metadata.Object
	for _, o := range m.Known {
		if keep(o) {
			found = append(found, *o)
		}
	}
	slices.SortFunc(found, func(a, b metadata.Object) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return func(yield func(metadata.Object, error) bool) {
		for _, o := range found {
			if !yield(o, nil) {
				return
			}
		}
	}
}

// Tombstones are the deleted topics.
func (m *Metadata) Tombstones(context.Context) ([]metadata.Tombstone, error) {
	var found []metadata.Tombstone
	for _, t := range m.Tombs {
		found = append(found, t)
	}
	slices.SortFunc(found, func(a, b metadata.Tombstone) int { return strings.Compare(a.Topic.String(), b.Topic.String()) })
	return found, nil
}
