package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/archive"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/objstore"
)

var ctx = context.Background()

// bucket is the object store. It fails, and takes writes that its client has given
// up.
type bucket struct {
	w       *world
	objects map[uuid.UUID]*object // looked up by name alone: its order means nothing
	fail    float64
	late    float64
	// gone are the objects that were deleted, for the trace of a late PUT.
	deleted int
}

// object is what was uploaded, with what a footer would say.
type object struct {
	batches   []batch
	producers []byte
	size      int64
}

// get reads an object, or fails.
func (b *bucket) get(id uuid.UUID) *object {
	if b.w.chance(b.fail) {
		return nil
	}
	return b.objects[id]
}

// tiering is the archiver of a process: the production machine, and what its
// effects come to here.
type tiering struct {
	p       *proc
	machine *archive.Machine
	// uploads under way, by partition: what Cancel stops.
	uploads []func(error)
}

const (
	lookEvery  = 300 * time.Millisecond
	trimEvery  = 700 * time.Millisecond
	sweepEvery = 500 * time.Millisecond
	// grace is how long an object without a reference stays. It exceeds the time
	// that a PUT may take.
	grace = 12 * time.Second
)

func (p *proc) startTiering() {
	w := p.w
	t := &tiering{p: p, uploads: make([]func(error), len(w.parts)), machine: archive.NewMachine(archive.MachineOptions{
		Concurrency: 2, TargetBytes: w.plan.copyBytes, MinBackoff: 100 * time.Millisecond, MaxBackoff: 2 * time.Second, NewID: w.newID, Jitter: w.rng.Float64})}
	p.tier = t
	p.every(lookEvery, func() { t.do(t.machine.Observe(p.clock(), t.leads())) })
	p.every(100*time.Millisecond, func() { t.do(t.machine.Tick(p.clock())) })
	p.every(trimEvery, p.trim)
	p.every(sweepEvery, p.sweep)
}

// leads shows the archiver what there is to copy (broker.tierSource.Leads).
func (t *tiering) leads() []archive.Led {
	var all []archive.Led
	for _, h := range t.p.hosts {
		if !h.leads() || !h.t.topic.tiered || t.p.epoch < 0 {
			continue
		}
		state := t.p.image.Partition(h.t.tp)
		led := archive.Led{Partition: h.t.tp, Store: "s", Start: max(state.RemoteEnd, state.LogStart),
			Fence: command.Fence{BrokerID: t.p.id, BrokerEpoch: t.p.epoch, LeaderEpoch: h.rep.LeaderEpoch()}}
		for _, end := range h.log.seals {
			if end > led.Start && end <= h.rep.HighWatermark() {
				led.Sealed = append(led.Sealed, archive.Sealed{End: end, Bytes: int64(end - led.Start), At: t.p.clock()})
			}
		}
		all = append(all, led)
	}
	return all
}

// do carries out what the machine wants done.
func (t *tiering) do(effects []archive.Effect) {
	// The machine forgets partitions in no order.
	n := 0
	for n < len(effects) {
		if _, ok := effects[n].(archive.Cancel); !ok {
			break
		}
		n++
	}
	slices.SortFunc(effects[:n], func(a, b archive.Effect) int {
		return t.p.w.truthOf(a.(archive.Cancel).Partition).index - t.p.w.truthOf(b.(archive.Cancel).Partition).index
	})
	for _, e := range effects {
		switch e := e.(type) {
		case archive.Propose:
			t.p.propose(e.Command, func(res command.Result, err error) {
				if _, ok := e.Command.(*command.CopyFinished); ok && err != nil && refusedBy(err) {
					t.p.w.count.deposed++
				}
				t.step(archive.Proposed{Copy: e.Copy, Result: res, Err: err})
			})
		case archive.Upload:
			t.upload(e.Copy)
		case archive.Verify:
			t.verify(e)
		case archive.Cancel:
			if cancel := t.uploads[t.p.w.truthOf(e.Partition).index]; cancel != nil {
				cancel(context.Canceled)
			}
		}
	}
}

func (t *tiering) step(e archive.Event) { t.do(t.machine.Step(t.p.clock(), e)) }

// upload builds the object and sends it.
func (t *tiering) upload(c archive.Copy) {
	w := t.p.w
	part := w.truthOf(c.Led.Partition).index
	open := true
	finish := func(u archive.UploadedObject, err error) {
		if open {
			open = false
			t.uploads[part] = nil
			t.step(archive.Uploaded{Copy: c, Object: u, Err: err})
		}
	}
	t.uploads[part] = func(err error) { finish(archive.UploadedObject{}, err) }
	o, entry, err := t.build(c, part)
	if err != nil {
		t.p.after(time.Millisecond, func() { finish(archive.UploadedObject{}, err) })
		return
	}
	took := time.Millisecond + w.upTo(w.plan.putTime)
	if w.chance(w.bucket.fail) {
		t.p.after(took, func() { finish(archive.UploadedObject{}, objstore.ErrTransient) })
		return
	}
	if w.chance(w.bucket.late) {
		took += w.between(w.plan.putTimeout, 3*time.Second)
	}
	// The bytes arrive whatever becomes of the process that sent them.
	w.after(took, func() {
		if w.bucket.objects[c.Object] == nil {
			w.bucket.objects[c.Object] = o
			w.mix(uint64(c.Object[0]), uint64(o.size))
		}
		at(w, t.p, func() {
			finish(archive.UploadedObject{Size: o.size, Checksum: objstore.CRC32C(uint32(o.batches[len(o.batches)-1].chain)), Footer: 1, Entry: entry}, nil)
		})
	})
	t.p.after(w.plan.putTimeout, func() { finish(archive.UploadedObject{}, objstore.ErrTransient) })
}

// build makes the object of a copy from the local log (archive.ObjectBuilder).
func (t *tiering) build(c archive.Copy, part int) (*object, manifest.Entry, error) {
	h := t.p.hosts[part]
	if h == nil || h.log.start > c.Start || h.log.end() < c.End {
		return nil, manifest.Entry{}, archive.ErrSource
	}
	l := h.log
	o := &object{batches: slices.Clone(l.read(c.Start, c.End, len(l.batches))), size: int64(c.End - c.Start + 10)}
	if len(o.batches) == 0 || o.batches[len(o.batches)-1].next != c.End {
		return nil, manifest.Entry{}, archive.ErrSource
	}
	o.producers = l.producersAt(l.at(c.End)).AppendSnapshot(nil, c.End)
	e := manifest.Entry{Start: c.Start, End: c.End, Object: c.Object, Bytes: int64(c.End - c.Start), MinTimestamp: 0, MaxTimestamp: 0}
	for i := range o.batches {
		if b := &o.batches[i]; len(e.Epochs) == 0 || e.Epochs[len(e.Epochs)-1].Epoch < b.epoch {
			start := b.base
			if len(e.Epochs) == 0 {
				start = min(start, c.Start)
			}
			e.Epochs = append(e.Epochs, manifest.EpochStart{Epoch: b.epoch, Start: start})
		}
	}
	return o, e, nil
}

// verify asks the store for what was uploaded.
func (t *tiering) verify(e archive.Verify) {
	w := t.p.w
	t.p.after(w.between(time.Millisecond, 50*time.Millisecond), func() {
		var err error
		switch {
		case w.chance(w.bucket.fail):
			err = objstore.ErrTransient
		case w.bucket.objects[e.Copy.Object] == nil:
			err = objstore.ErrNotExist
		}
		t.step(archive.Verified{Copy: e.Copy, Err: err})
	})
}

// trim drops local segments that are in the bucket or below the log start
// (partition.Partition.Trim).
func (p *proc) trim() {
	for _, h := range p.hosts {
		if h == nil || !p.w.chance(0.5) {
			continue
		}
		state := p.image.Partition(h.t.tp)
		before := h.log.start
		h.log.trimTo(max(state.LogStart, state.RemoteEnd))
		if h.log.start != before {
			h.t.touched = true
			now := p.w.meta.image().Partition(h.t.tp)
			if h.log.start > max(now.LogStart, now.RemoteEnd) {
				p.w.violate("9", "%s: broker %d dropped its log below %d, but the remote end is %d and the log start %d",
					h.t.name(), p.id, h.log.start, now.RemoteEnd, now.LogStart)
			}
		}
	}
}

// sweep is the metadata leader's cleaning of the bucket (tiering/reclaim): it
// gives up the copies of ended leaderships, and deletes what nobody refers to
// after its grace period.
func (p *proc) sweep() {
	if p.ctl == nil || p.w.meta.leader != p.id || p.epoch < 0 {
		return
	}
	w := p.w
	var gone, unreferenced []metadata.Object
	for o, err := range w.meta.fsm.PendingObjects(ctx) {
		if err != nil {
			panic(err)
		}
		b, part := p.image.Broker(o.BrokerID), p.image.Partition(o.Partition)
		switch {
		case o.Intent > p.image.Index():
		case o.State == metadata.ObjectDeleting:
			unreferenced = append(unreferenced, o)
		case b == nil || b.Epoch != o.BrokerEpoch || part == nil || part.LeaderEpoch != o.LeaderEpoch:
			gone = append(gone, o)
		}
	}
	for _, o := range gone {
		p.propose(&command.CopyAbandoned{BrokerID: p.id, BrokerEpoch: p.epoch, Object: o.ID, Time: p.wall()}, func(command.Result, error) {})
	}
	var ids []uuid.UUID
	for _, o := range unreferenced {
		seen := p.ctl.graces[o.ID]
		if seen == 0 {
			p.ctl.graces[o.ID] = w.now
			continue
		}
		if w.now-seen < grace {
			continue
		}
		w.bucket.delete(o.ID)
		ids = append(ids, o.ID)
	}
	if len(ids) > 0 {
		p.propose(&command.DeleteFinished{BrokerID: p.id, BrokerEpoch: p.epoch, Objects: ids}, func(command.Result, error) {})
	}
}

// delete removes an object, and checks that nobody refers to it.
func (b *bucket) delete(id uuid.UUID) {
	refs, err := b.w.meta.fsm.Refs(id)
	if err != nil {
		panic(err)
	}
	if len(refs) > 0 {
		b.w.violate("10", "object %s is deleted while %v refer to it", id, refs)
	}
	if b.objects[id] != nil {
		b.deleted++
	}
	delete(b.objects, id)
}

// checkEntries holds a partition's remote entries, just changed, against the truth
// and the bucket.
func (w *world) checkEntries(t *truth, m manifest.Manifest) {
	if err := m.Validate(); err != nil {
		w.violate("8", "%s: %v", t.name(), err)
	}
	w.count.copies++
	at := record.Offset(-1)
	for _, e := range m.Live() {
		if at >= 0 && e.Start != at {
			w.violate("8", "%s: entries leave a hole from %d to %d", t.name(), at, e.Start)
		}
		at = e.End
		w.checkEntry(t, &e)
	}
}

// checkEntry holds one entry against the object and what was committed.
func (w *world) checkEntry(t *truth, e *manifest.Entry) {
	o := w.bucket.objects[e.Object]
	if o == nil {
		w.violate("10", "%s: entry [%d, %d) refers to the object %s, which is not in the bucket", t.name(), e.Start, e.End, e.Object)
	}
	first, last := o.batches[0], o.batches[len(o.batches)-1].next
	if first.base > e.Start || first.next <= e.Start || last != e.End { // the log start may be within a batch
		w.violate("8", "%s: entry [%d, %d) refers to an object of [%d, %d)", t.name(), e.Start, e.End, first.base, last)
	}
	have := o.batches[len(o.batches)-1].chain
	if want, ok := t.chainAt(e.End); !ok || want != have {
		w.violate("8", "%s: entry [%d, %d) holds what was not committed on the current lineage (%d is)", t.name(), e.Start, e.End, t.end())
	}
}

// errBadBucket is for reads of records that only the bucket has.
var errBadBucket = errors.New("sim: the bucket does not answer")

// readRemote reads from the bucket, as of the process's metadata (tiering/remote).
func (p *proc) readRemote(t *truth, from record.Offset) ([]batch, error) {
	m := p.w.meta.entries(t.index, p.image.Index())
	e, ok := m.Find(from)
	if !ok {
		return nil, fmt.Errorf("no entry for %d", from)
	}
	o := p.w.bucket.get(e.Object)
	if o == nil {
		return nil, errBadBucket
	}
	for i := range o.batches {
		if o.batches[i].next > from {
			return o.batches[i:min(i+maxBatches, len(o.batches))], nil
		}
	}
	return nil, fmt.Errorf("entry [%d, %d) lacks offset %d", e.Start, e.End, from)
}
