package archive_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/archive"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/faulty"
	"github.com/firnlog/firn/tiering/objstore/layout"
	"github.com/firnlog/firn/tiering/objstore/mem"
	"github.com/firnlog/firn/tiering/tiertest"
)

// world is a machine among a model of the metadata and a store in memory. Time
// and effects move only when the transcript says so.
type world struct {
	t       *testing.T
	now     time.Time
	meta    *tiertest.Metadata
	store   *faulty.Store
	lay     layout.Layout
	m       *archive.Machine
	leads   []archive.Led
	pending []archive.Effect
	ids     byte
	out     strings.Builder
	lose    bool // the next command's answer is lost
}

func newWorld(t *testing.T) *world {
	lay, err := layout.New("", "cluster")
	require.NoError(t, err)
	w := &world{t: t, now: time.UnixMilli(1_000_000), meta: tiertest.New(), store: faulty.Wrap(mem.New(), nil), lay: lay}
	w.meta.Register(1)
	w.restart(2, 100)
	w.store.Record(func(c faulty.Call, err error) {
		fmt.Fprintf(&w.out, "    store %s %s: %s\n", c.Op, w.key(c.Key), outcome(err))
	})
	return w
}

func (w *world) restart(concurrency int, target int64) {
	w.pending = nil
	w.m = archive.NewMachine(archive.MachineOptions{
		Concurrency: concurrency, TargetBytes: target, Jitter: func() float64 { return 0.5 },
		NewID: func() uuid.UUID { w.ids++; return uuid.UUID{15: w.ids} },
	})
}

func (w *world) key(key string) string {
	if id, ok := w.lay.ParseObject(key); ok {
		return fmt.Sprintf("#%d", id[15])
	}
	return key
}

func outcome(err error) string {
	refusal := (*command.Error)(nil)
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &refusal):
		return fmt.Sprintf("refused: %v", refusal)
	case errors.Is(err, objstore.ErrTransient):
		return "unavailable"
	case errors.Is(err, objstore.ErrChecksum):
		return "checksum mismatch"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	}
	return err.Error()
}

var topic = record.TopicID{1}

func partition(n int) record.TopicPartition {
	return record.TopicPartition{Topic: topic, Partition: int32(n)}
}

func describe(e archive.Effect) string {
	switch e := e.(type) {
	case archive.Propose:
		c := e.Copy
		switch cmd := e.Command.(type) {
		case *command.CopyStarted:
			return fmt.Sprintf("propose CopyStarted p%d #%d [%d, %d)", c.Led.Partition.Partition, cmd.Object[15], cmd.Start, cmd.End)
		case *command.CopyFinished:
			return fmt.Sprintf("propose CopyFinished p%d #%d [%d, %d) size %d crc %x", c.Led.Partition.Partition, cmd.Object[15],
				cmd.Entry.Start, cmd.Entry.End, cmd.Size, cmd.Checksum)
		case *command.CopyAbandoned:
			return fmt.Sprintf("propose CopyAbandoned #%d", cmd.Object[15])
		}
	case archive.Upload:
		return fmt.Sprintf("upload p%d #%d [%d, %d)", e.Copy.Led.Partition.Partition, e.Copy.Object[15], e.Copy.Start, e.Copy.End)
	case archive.Verify:
		return fmt.Sprintf("verify p%d #%d size %d", e.Copy.Led.Partition.Partition, e.Copy.Object[15], e.Uploaded.Size)
	case archive.Cancel:
		return fmt.Sprintf("cancel p%d", e.Partition.Partition)
	}
	return fmt.Sprintf("%#v", e)
}

// body is what the object of a range holds in these tests.
func body(tp record.TopicPartition, start, end record.Offset) []byte {
	return fmt.Appendf(nil, "%v [%d, %d)", tp, start, end)
}

func build(c archive.Copy) *archive.Built {
	b := body(c.Led.Partition, c.Start, c.End)
	return &archive.Built{
		Body: bytes.NewReader(b), Size: int64(len(b)), Checksum: objstore.ChecksumOf(b), Footer: 1,
		Entry: manifest.Entry{Start: c.Start, End: c.End, Object: c.Object, Bytes: c.Bytes,
			Epochs: []manifest.EpochStart{{Epoch: 0, Start: 0}}},
		Close: func() error { return nil },
	}
}

// do carries out one effect and gives its outcome.
func (w *world) do(e archive.Effect) archive.Event {
	ctx := w.t.Context()
	switch e := e.(type) {
	case archive.Propose:
		res, err := w.meta.Propose(ctx, e.Command)
		if w.lose {
			res, err, w.lose = command.Result{}, errors.New("answer lost"), false
		}
		fmt.Fprintf(&w.out, "    metadata: %s\n", outcome(err))
		return archive.Proposed{Copy: e.Copy, Result: res, Err: err}
	case archive.Upload:
		b := build(e.Copy)
		_, err := w.store.Put(ctx, w.lay.Object(e.Copy.Object), b.Body, b.Size, objstore.PutOptions{IfAbsent: true, Checksum: b.Checksum})
		return archive.Uploaded{Copy: e.Copy, Err: err, Object: archive.UploadedObject{
			Size: b.Size, Checksum: b.Checksum, Footer: b.Footer, Entry: b.Entry}}
	case archive.Verify:
		_, err := objstore.Verify(ctx, w.store, w.lay.Object(e.Copy.Object), e.Uploaded.Size, e.Uploaded.Checksum, false)
		return archive.Verified{Copy: e.Copy, Err: err}
	}
	w.t.Fatalf("cannot carry out %T", e)
	return nil
}

func (w *world) add(effects []archive.Effect) {
	for _, e := range effects {
		fmt.Fprintf(&w.out, "  > %s\n", describe(e))
		if _, ok := e.(archive.Cancel); !ok {
			w.pending = append(w.pending, e)
		}
	}
}

// step carries out the oldest effect that is wanted.
func (w *world) step() {
	e := w.pending[0]
	w.pending = w.pending[1:]
	fmt.Fprintf(&w.out, "%s\n", describe(e))
	w.add(w.m.Step(w.now, w.do(e)))
}

// TestTranscripts lists every command and store call of each story in testdata.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := newWorld(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.out.Reset()
			w.command(d)
			return w.out.String()
		})
	})
}

func (w *world) command(d *datadriven.TestData) {
	var p, n int
	var start, at int64
	d.MaybeScanArgs(w.t, "p", &p)
	d.MaybeScanArgs(w.t, "start", &start)
	d.MaybeScanArgs(w.t, "at", &at)
	tp := partition(p)
	switch d.Cmd {
	case "machine": // machine concurrency=N target=BYTES
		var target int64
		d.ScanArgs(w.t, "concurrency", &n)
		d.ScanArgs(w.t, "target", &target)
		w.restart(n, target)
	case "lead": // lead p=N start=O: a new leader epoch
		if w.meta.Parts[tp] == nil {
			w.meta.Parts[tp] = &tiertest.Partition{LeaderEpoch: -1}
		}
		w.meta.Elect(tp, 1)
		w.leads = slices.DeleteFunc(w.leads, func(l archive.Led) bool { return l.Partition == tp })
		w.leads = append(w.leads, archive.Led{Partition: tp, Store: "warm", Start: record.Offset(start), Fence: command.Fence{
			BrokerID: 1, BrokerEpoch: w.meta.Epochs[1], LeaderEpoch: w.meta.Parts[tp].LeaderEpoch}})
	case "seal": // seal p=N, then lines of END BYTES
		for i := range w.leads {
			if w.leads[i].Partition != tp {
				continue
			}
			for line := range strings.Lines(d.Input) {
				var s archive.Sealed
				_, err := fmt.Sscan(line, &s.End, &s.Bytes)
				require.NoError(w.t, err)
				s.At = w.now
				w.leads[i].Sealed = append(w.leads[i].Sealed, s)
			}
		}
	case "lost": // lost p=N: this broker leads it no longer
		w.leads = slices.DeleteFunc(w.leads, func(l archive.Led) bool { return l.Partition == tp })
	case "depose": // depose p=N: another broker leads, and this one has not heard
		w.meta.Elect(tp, 2)
	case "log-start": // log-start p=N start=O
		w.meta.Parts[tp].Manifest = w.meta.Parts[tp].Manifest.WithLogStart(record.Offset(start))
	case "observe":
		for i := range w.leads {
			l := &w.leads[i]
			l.Start = w.meta.Parts[l.Partition].Manifest.CopyStart()
			l.Sealed = slices.DeleteFunc(l.Sealed, func(s archive.Sealed) bool { return s.End <= l.Start })
		}
		w.add(w.m.Observe(w.now, slices.Clone(w.leads)))
	case "observe-late": // what the last look showed, before a commit got around
		w.add(w.m.Observe(w.now, slices.Clone(w.leads)))
	case "fault": // fault op=put kind=…: the next call of op
		var op, kind string
		d.ScanArgs(w.t, "op", &op)
		d.ScanArgs(w.t, "kind", &kind)
		kinds := map[string]faulty.Kind{"unavailable": faulty.Unavailable, "unseen": faulty.Unseen, "reset": faulty.Reset, "flip": faulty.Flip}
		done := false
		w.store.SetPlan(func(c faulty.Call) faulty.Fault {
			if done || c.Op != op {
				return faulty.Fault{}
			}
			done = true
			return faulty.Fault{Kind: kinds[kind], At: at}
		})
	case "lose-answer":
		w.lose = true
	case "step":
		n = 1
		d.MaybeScanArgs(w.t, "n", &n)
		for range n {
			w.step()
		}
	case "run": // until nothing is wanted
		for len(w.pending) > 0 {
			w.step()
		}
	case "pass": // pass ms=N: time passes
		d.ScanArgs(w.t, "ms", &n)
		w.now = w.now.Add(time.Duration(n) * time.Millisecond)
		w.add(w.m.Tick(w.now))
	case "pause":
		w.m.SetPaused(true)
	case "resume":
		w.m.SetPaused(false)
		w.add(w.m.Tick(w.now))
	case "restart": // the process dies and comes back
		w.meta.Register(1)
		for i := range w.leads {
			w.leads[i].Fence.BrokerEpoch = w.meta.Epochs[1]
		}
		w.restart(2, 100)
	case "status":
		s, ok := w.m.Status(tp)
		fmt.Fprintf(&w.out, "%v %v lag %d failures %d", ok, s.Phase, s.LagBytes, s.Failures)
		if !s.RetryAt.IsZero() {
			fmt.Fprintf(&w.out, " retry in %v", s.RetryAt.Sub(w.now))
		}
		if s.Err != nil {
			fmt.Fprintf(&w.out, ": %s", outcome(s.Err))
		}
		w.out.WriteString("\n")
	case "stats":
		s := w.m.Stats()
		fmt.Fprintf(&w.out, "in flight %d, waiting %d, lag %d bytes in %d segments, finished %d (dropped %d), failures %d, store failures %d\n",
			s.InFlight, s.Waiting, s.LagBytes, s.LagSegments, s.Finished, s.Dropped, s.Failures, s.StoreFailures)
	case "show": // what metadata and store hold
		w.show()
	default:
		d.Fatalf(w.t, "unknown command")
	}
}

func (w *world) show() {
	for n := range 10 {
		p := w.meta.Parts[partition(n)]
		if p == nil {
			continue
		}
		fmt.Fprintf(&w.out, "p%d:", n)
		for _, e := range p.Manifest.Entries() {
			fmt.Fprintf(&w.out, " [%d, %d) #%d %v", e.Start, e.End, e.Object[15], e.State)
		}
		w.out.WriteString("\n")
	}
	for o, err := range w.meta.Objects(w.t.Context()) {
		require.NoError(w.t, err)
		sum := uint32(0)
		if len(o.Checksum) == 4 {
			sum = binary.BigEndian.Uint32(o.Checksum)
		}
		fmt.Fprintf(&w.out, "object #%d %v crc %08x\n", o.ID[15], o.State, sum)
	}
	w.store.SetPlan(nil)
	w.store.Record(nil)
	for info, err := range w.store.List(w.t.Context(), "", "") {
		require.NoError(w.t, err)
		fmt.Fprintf(&w.out, "stored %s, %d bytes\n", w.key(info.Key), info.Size)
	}
	w.store.Record(func(c faulty.Call, err error) {
		fmt.Fprintf(&w.out, "    store %s %s: %s\n", c.Op, w.key(c.Key), outcome(err))
	})
}
