package group

import (
	"context"
	"sync"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/twmb/franz-go/pkg/kerr"
)

// fakeLog is an offsets topic in memory.
type fakeLog struct {
	mu      sync.Mutex
	parts   map[int32]*fakePartition
	latency func() time.Duration // nil: done is called within Append
	fail    func() error         // nil: never
	scanErr error
	scanned chan struct{} // where not nil, Scan waits for it to close
	hold    bool          // keep appends until release
	held    []func()
}

type fakePartition struct {
	batches [][]byte
	end     record.Offset
}

func newFakeLog() *fakeLog { return &fakeLog{parts: map[int32]*fakePartition{}} }

func (l *fakeLog) part(p int32) *fakePartition {
	if l.parts[p] == nil {
		l.parts[p] = &fakePartition{}
	}
	return l.parts[p]
}

// write stamps and stores a batch.
func (l *fakeLog) write(partition int32, epoch record.Epoch, raw []byte) record.Offset {
	b, err := record.ReadBatch(raw)
	if err != nil {
		panic(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.part(partition)
	base := p.end
	b.Stamp(base, epoch)
	p.batches = append(p.batches, b.Raw)
	p.end = b.NextOffset()
	return base
}

func (l *fakeLog) Append(partition int32, epoch record.Epoch, raw []byte, done func(record.Offset, error)) {
	run := func() {
		if l.fail != nil {
			if err := l.fail(); err != nil {
				done(0, err)
				return
			}
		}
		done(l.write(partition, epoch, raw), nil)
	}
	l.mu.Lock()
	hold := l.hold
	if hold {
		l.held = append(l.held, run)
	}
	l.mu.Unlock()
	switch {
	case hold:
	case l.latency != nil:
		time.AfterFunc(l.latency(), run)
	default:
		run()
	}
}

func (l *fakeLog) setHold(on bool) {
	l.mu.Lock()
	l.hold = on
	l.mu.Unlock()
}

// release lets the held appends happen. It returns how many.
func (l *fakeLog) release() int {
	l.mu.Lock()
	held := l.held
	l.held = nil
	l.mu.Unlock()
	for _, run := range held {
		run()
	}
	return len(held)
}

func (l *fakeLog) Scan(ctx context.Context, partition int32, fn func(*record.Batch) error) error {
	l.mu.Lock()
	batches, err, wait := l.part(partition).batches, l.scanErr, l.scanned
	l.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	for _, raw := range batches {
		b, err := record.ReadBatch(raw)
		if err != nil {
			return err
		}
		if err := fn(&b); err != nil {
			return err
		}
	}
	return nil
}

// compacted returns a log that keeps the last record of each key, and with
// dropTombstones none without value.
func (l *fakeLog) compacted(dropTombstones bool) *fakeLog {
	type kv struct {
		key, value []byte
		offset     record.Offset
	}
	out := newFakeLog()
	for p, part := range l.parts {
		last := map[string]record.Offset{}
		var all []kv
		for _, raw := range part.batches {
			b, err := record.ReadBatch(raw)
			if err != nil {
				panic(err)
			}
			err = b.Records(func(r *record.Record) error {
				e := kv{append([]byte{}, r.Key...), nil, r.Offset}
				if r.Value != nil {
					e.value = append([]byte{}, r.Value...)
				}
				last[string(e.key)] = e.offset
				all = append(all, e)
				return nil
			})
			if err != nil {
				panic(err)
			}
		}
		for _, e := range all {
			if last[string(e.key)] != e.offset || (dropTombstones && e.value == nil) {
				continue
			}
			bb := record.NewBuilder(record.BuilderOptions{})
			bb.Append(0, e.key, e.value)
			out.part(p).end = e.offset
			out.write(p, 0, bb.Build())
		}
	}
	return out
}

var errDisk = kerr.KafkaStorageError
