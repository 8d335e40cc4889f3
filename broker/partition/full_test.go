package partition

import (
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/record"
)

// faultyDisk fails writes of segments when it is full, and holds their syncs
// back while held.
type faultyDisk struct {
	full  atomic.Bool
	after atomic.Int64 // writes that still succeed
	held  atomic.Pointer[chan struct{}]
}

func (d *faultyDisk) inject(op errorfs.Op) error {
	if !strings.HasSuffix(op.Path, ".log") {
		return nil
	}
	switch op.Kind {
	case errorfs.OpFileWriteAt:
		if d.full.Load() && d.after.Add(-1) < 0 {
			return syscall.ENOSPC
		}
	case errorfs.OpFileSyncData, errorfs.OpFileSync:
		if held := d.held.Load(); held != nil {
			<-*held
		}
	}
	return nil
}

func (d *faultyDisk) wrap(fs vfs.FS) vfs.FS { return errorfs.Wrap(fs, errorfs.InjectorFunc(d.inject)) }

// gathered queues appends while the writer is busy, so that one round takes them.
func (b *bench) gathered(all bool, raws ...[]byte) []*Append {
	b.t.Helper()
	p := b.part()
	busy, release := make(chan struct{}), make(chan struct{})
	go p.exclusive(func() { close(busy); <-release })
	<-busy
	appends := make([]*Append, len(raws))
	for i, raw := range raws {
		appends[i] = &Append{Raw: raw, AcksAll: all, LeaderEpoch: -1, Owner: &waiting{done: make(chan struct{})}}
		p.Append(appends[i])
	}
	close(release)
	for _, a := range appends {
		select {
		case <-a.Owner.(*waiting).done:
		case <-time.After(10 * time.Second):
			b.t.Fatal("append was not answered")
		}
	}
	return appends
}

// A client that got no answer in time sent its batch again over another
// connection, and both copies were gathered into one write. The disk was full:
// the original was refused, but the copy had been judged a duplicate of it and
// was acknowledged at the offset that the original would have had.
func TestDuplicateOfABatchThatWasNotWrittenIsNotAcked(t *testing.T) {
	for _, all := range []bool{false, true} {
		d := &faultyDisk{}
		b := newBenchOn(t, d.wrap(vfs.NewMem()), nil)
		opts := record.BuilderOptions{ProducerID: 7, ProducerEpoch: 0, BaseSequence: 0}
		d.full.Store(true)
		for _, a := range b.gathered(all, batch(2, opts), batch(2, opts)) {
			require.ErrorIs(t, a.Err, kerr.KafkaStorageError)
			require.EqualValues(t, -1, a.Base)
		}
		d.full.Store(false)
		for _, a := range b.gathered(all, batch(2, opts), batch(2, opts)) {
			require.NoError(t, a.Err)
			require.Zero(t, a.Base)
		}
		require.EqualValues(t, 2, b.part().State().LogEnd)
	}
}

// A gather filled one segment and found no room for the next. What it had
// written was synced and then cut off again; the sync told the replica of a
// flushed end above the log's. The next append was below that and counted as
// durable before the disk had it.
func TestFlushedEndGoesBackWithAnUndoneAppend(t *testing.T) {
	d := &faultyDisk{}
	b := newBenchOn(t, d.wrap(vfs.NewMem()), map[string]string{"segment.bytes": "1048576", "durability": "fsync"})
	half := func() []byte {
		r := record.NewBuilder(plain())
		for range 6 {
			r.Append(1, nil, make([]byte, 100<<10))
		}
		return r.Build()
	}
	require.NoError(t, b.append(batch(1, plain()), true).Err)
	d.after.Store(1) // the first segment's write
	d.full.Store(true)
	for _, a := range b.gathered(true, half(), half()) {
		require.ErrorIs(t, a.Err, kerr.KafkaStorageError)
	}
	d.full.Store(false)
	st := b.part().State()
	require.EqualValues(t, 1, st.LogEnd)
	require.EqualValues(t, 1, st.HighWatermark)

	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	defer release()
	d.held.Store(&held)
	require.NoError(t, b.append(batch(2, plain()), false).Err)
	require.EqualValues(t, 1, b.part().State().HighWatermark, "not synced yet")
	d.held.Store(nil)
	release()
	require.NoError(t, b.append(batch(2, plain()), true).Err)
	require.EqualValues(t, 5, b.part().State().HighWatermark)
}
