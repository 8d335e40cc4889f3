package remote

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/object"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/faulty"
	"github.com/firnlog/firn/tiering/objstore/mem"
)

var testTP = record.TopicPartition{Topic: record.TopicID{1, 2, 3}, Partition: 4}

// world is one partition in a bucket, with a naive copy of all that it holds.
type world struct {
	t       testing.TB
	mem     *mem.Store
	faulty  *faulty.Store
	store   objstore.Store
	batches []record.Batch
	aborted []object.AbortedTxn
	sizes   map[uuid.UUID]int64

	mu       sync.Mutex
	manifest manifest.Manifest
	calls    []string // GETs of the faulty store
}

func (w *world) Entries(context.Context, record.TopicPartition) (manifest.Manifest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.manifest, nil
}

func (w *world) setManifest(m manifest.Manifest) {
	w.mu.Lock()
	w.manifest = m
	w.mu.Unlock()
}

func objectKey(id uuid.UUID) string { return "data/" + id.String() }

func (w *world) locate(_ context.Context, id uuid.UUID) (Location, error) {
	size, ok := w.sizes[id]
	if !ok {
		return Location{}, ErrNotFound
	}
	return Location{Store: w.store, Key: objectKey(id), Size: size}, nil
}

// transcript returns the GETs since the last call.
func (w *world) transcript() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

type shape struct {
	objects, batches int // batches per object
	body             int // greatest size of a record, bytes
	chunk            int64
	gaps             bool
	fixed            bool // one record of exactly body bytes in each batch, uncompressed
	meta             func(*object.Meta)
}

// newWorld writes random batches into objects.
func newWorld(t testing.TB, r *rand.Rand, sh shape) *world {
	w := &world{t: t, mem: mem.New(), sizes: map[uuid.UUID]int64{}}
	w.faulty = faulty.Wrap(w.mem, nil)
	w.faulty.Record(func(c faulty.Call, err error) {
		if c.Op == "get" {
			w.mu.Lock()
			w.calls = append(w.calls, c.Key)
			w.mu.Unlock()
		}
	})
	w.store = objstore.WithRetries(w.faulty, objstore.RetryOptions{Budget: objstore.NewBudget(1 << 20)})
	var entries []manifest.Entry
	off := record.Offset(1000)
	start := off
	ts := int64(1_700_000_000_000)
	var epoch record.Epoch
	for range sh.objects {
		var file []byte
		first := off
		epoch++
		var aborted []object.AbortedTxn
		for range sh.batches {
			records, codec := 1+r.IntN(4), []record.Codec{record.CodecNone, record.CodecLz4}[r.IntN(2)]
			if sh.fixed {
				records, codec = 1, record.CodecNone
			}
			b := record.NewBuilder(record.BuilderOptions{Codec: codec})
			for range records {
				ts += int64(r.IntN(9)) - 2
				body := make([]byte, sh.body)
				if !sh.fixed {
					body = body[:1+r.IntN(sh.body)]
				}
				for i := range body {
					body[i] = byte(r.IntN(16))
				}
				b.Append(ts, []byte("key"), body)
			}
			batch, err := record.ReadBatch(b.Build())
			require.NoError(t, err)
			if sh.gaps && r.IntN(5) == 0 {
				off += record.Offset(r.IntN(20))
			}
			batch.Stamp(off, epoch)
			if r.IntN(7) == 0 {
				aborted = append(aborted, object.AbortedTxn{ProducerID: int64(r.IntN(9)), First: off, Last: off + record.Offset(r.IntN(30)), LastStable: off})
			}
			off = batch.NextOffset()
			w.batches = append(w.batches, batch)
			file = append(file, batch.Raw...)
		}
		if sh.gaps {
			off += record.Offset(r.IntN(10))
		}
		w.aborted = append(w.aborted, aborted...)
		meta := object.Meta{Object: uuid.New(), ChunkBytes: sh.chunk, SpoolDir: t.TempDir()}
		if sh.meta != nil {
			sh.meta(&meta)
		}
		built, err := object.Build(t.Context(), object.Source{Runs: []object.RunSource{{
			Run: object.Run{TopicPartition: testTP, Start: first, End: off, Aborted: aborted,
				Epochs: []object.EpochStart{{Epoch: epoch, Start: first}}},
			Extents:   []object.Extent{{File: bytes.NewReader(file), Len: int64(len(file))}},
			Producers: binary.BigEndian.AppendUint64(nil, uint64(off)),
		}}}, meta)
		require.NoError(t, err)
		_, err = w.mem.Put(t.Context(), objectKey(meta.Object), built, built.Size(), objstore.PutOptions{Checksum: objstore.CRC32C(built.CRC32C())})
		require.NoError(t, err)
		w.sizes[meta.Object] = built.Size()
		minTs, maxTs, _ := built.Footer().Timestamps(0)
		entries = append(entries, manifest.Entry{Start: first, End: off, Object: meta.Object,
			Epochs: []manifest.EpochStart{{Epoch: epoch, Start: first}},
			Bytes:  int64(len(file)), MinTimestamp: minTs, MaxTimestamp: maxTs})
		require.NoError(t, built.Close())
	}
	m, err := manifest.New(start, off, entries)
	require.NoError(t, err)
	w.manifest = m
	return w
}

// reader makes a Reader with small bounds and a cache, closed with the test.
func (w *world) reader(o Options, c cache.Options) *Reader {
	w.t.Helper()
	if c.MemoryBytes == 0 {
		c.MemoryBytes = 1 << 20
	}
	c.Poison, c.BufferBytes = true, 4000
	ch, err := cache.Open(c)
	require.NoError(w.t, err)
	o.Entries, o.Locate, o.Cache = w, w.locate, ch
	r, err := New(o)
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		require.NoError(w.t, r.Close())
		w.checkAtRest(r)
		require.NoError(w.t, ch.Close())
	})
	return r
}

// checkAtRest holds that all budgets were given back.
func (w *world) checkAtRest(r *Reader) {
	for name, b := range map[string]budget{"fetching": r.fetching, "pinned": r.pinned, "read-ahead": r.readAhead, "reading": r.reading} {
		require.True(w.t, b.TryAcquire(b.size), "%s budget was not given back", name)
	}
}

// naive is what Read should give if all is at hand: batches from an entry
// until a limit.
func (w *world) naive(req Request) (raw []byte, first, next record.Offset) {
	first, next = -1, req.From
	for {
		e, ok := w.manifest.Find(next)
		if !ok {
			return raw, first, next
		}
		for i := range w.batches {
			b := &w.batches[i]
			if b.NextOffset() <= next || b.BaseOffset >= e.End {
				continue
			}
			fits := int64(len(raw)+len(b.Raw)) <= req.MaxBytes || len(raw) == 0 && req.AtLeastOne
			if b.NextOffset() > req.UpTo || !fits {
				return raw, first, next
			}
			if first < 0 {
				first = b.BaseOffset
			}
			raw, next = append(raw, b.Raw...), b.NextOffset()
		}
		if len(raw) > 0 {
			return raw, first, next
		}
		if next = e.End; next >= req.UpTo {
			return nil, -1, next
		}
	}
}

// content reads all pieces.
func (res *Result) content(t testing.TB) []byte {
	t.Helper()
	var all []byte
	for _, p := range res.Pieces {
		require.EqualValues(t, p.Len, len(p.Bytes))
		all = append(all, p.Bytes...)
	}
	require.EqualValues(t, len(all), res.Bytes)
	return all
}

// checkRead compares a Result with the naive one. What is not at hand may be
// left out, so a Result may be a part of it, from its beginning on.
func (w *world) checkRead(req Request, res *Result) error {
	want, first, next := w.naive(req)
	got := res.content(w.t)
	switch {
	case !bytes.HasPrefix(want, got):
		return fmt.Errorf("%+v: %d other bytes", req, len(got))
	case len(want) > 0 && len(got) == 0:
		return fmt.Errorf("%+v: nothing, want %d bytes", req, len(want))
	case first != res.First:
		return fmt.Errorf("%+v: first %d, want %d", req, res.First, first)
	case len(got) == len(want) && next != res.Next:
		return fmt.Errorf("%+v: next %d, want %d", req, res.Next, next)
	}
	end := req.From
	for b, err := range record.Batches(got) {
		if err != nil {
			return err
		}
		if err := b.VerifyCRC(); err != nil {
			return err
		}
		end = b.NextOffset()
	}
	if len(got) > 0 && end != res.Next {
		return fmt.Errorf("%+v: next %d, batches end at %d", req, res.Next, end)
	}
	return w.checkAborted(req, res)
}

func (w *world) checkAborted(req Request, res *Result) error {
	if !req.Committed {
		if res.Aborted != nil {
			return errors.New("aborted transactions that nobody asked for")
		}
		return nil
	}
	var e manifest.Entry
	if res.Bytes > 0 {
		e, _ = w.manifest.Find(res.Next - 1)
	}
	var want []object.AbortedTxn
	for _, a := range w.aborted {
		if res.Bytes > 0 && a.First >= e.Start && a.First < e.End && a.First < res.Next && a.Last >= max(req.From, e.Start) {
			want = append(want, a)
		}
	}
	if len(want) != len(res.Aborted) {
		return fmt.Errorf("%+v: %d aborted transactions, want %d", req, len(res.Aborted), len(want))
	}
	for i := range want {
		if object.AbortedTxn(res.Aborted[i]) != want[i] {
			return fmt.Errorf("aborted transaction %d: %v, want %v", i, res.Aborted[i], want[i])
		}
	}
	return nil
}

// randomRequest asks for anything in or around the partition.
func (w *world) randomRequest(r *rand.Rand) Request {
	start, end := w.manifest.LogStart(), w.manifest.RemoteEnd()
	req := Request{
		TP:       testTP,
		From:     start + record.Offset(r.Int64N(int64(end-start))),
		UpTo:     end,
		MaxBytes: int64(r.IntN(20_000)), AtLeastOne: r.IntN(3) > 0, Committed: r.IntN(2) == 0,
	}
	if r.IntN(4) == 0 {
		req.UpTo = req.From + record.Offset(r.IntN(60))
	}
	return req
}

// readThrough reads the whole partition sequentially and compares every byte.
func (w *world) readThrough(r *Reader, stream uint64, maxBytes int64) {
	w.t.Helper()
	var all []byte
	for at := w.manifest.LogStart(); at < w.manifest.RemoteEnd(); {
		res, err := r.Read(w.t.Context(), Request{TP: testTP, From: at, UpTo: w.manifest.RemoteEnd(), MaxBytes: maxBytes, AtLeastOne: true, Stream: stream})
		if errors.Is(err, ErrUnavailable) {
			time.Sleep(time.Second) // in the test's own time
			continue
		}
		require.NoError(w.t, err)
		require.Greater(w.t, res.Next, at)
		all = append(all, res.content(w.t)...)
		at = res.Next
		res.Release()
	}
	var want []byte
	for i := range w.batches {
		want = append(want, w.batches[i].Raw...)
	}
	require.True(w.t, bytes.Equal(want, all), "%d bytes, want %d", len(all), len(want))
}
