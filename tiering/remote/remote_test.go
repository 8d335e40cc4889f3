package remote

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/object"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/faulty"
)

type fixedKey struct{}

func (fixedKey) Current(context.Context) (string, []byte, error) {
	return "k", bytes.Repeat([]byte{5}, object.KeySize), nil
}

func (k fixedKey) Key(ctx context.Context, _ string) ([]byte, error) {
	_, key, err := k.Current(ctx)
	return key, err
}

// TestRandomReads compares reads at random places, from several goroutines,
// with the naive concatenation.
func TestRandomReads(t *testing.T) {
	for name, sh := range map[string]shape{
		"plain":     {objects: 4, batches: 120, body: 300, chunk: 5000},
		"gaps":      {objects: 5, batches: 60, body: 200, chunk: 3000, gaps: true},
		"tiny":      {objects: 3, batches: 300, body: 3, chunk: 40_000},
		"large":     {objects: 3, batches: 20, body: 30_000, chunk: 9000},
		"sealed":    {objects: 3, batches: 60, body: 300, chunk: 5000, meta: func(m *object.Meta) { m.Codec, m.Keys = object.CodecZstd, fixedKey{} }},
		"one chunk": {objects: 2, batches: 400, body: 400, chunk: 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			w := newWorld(t, rand.New(rand.NewPCG(seed, 0)), sh)
			// Memory for a few chunks only, so that all of memory, disk and store serve.
			rd := w.reader(Options{Keys: fixedKey{}, GetBytes: 10_000, ReadAheadWindow: 20_000},
				cache.Options{MemoryBytes: 60_000, DiskBytes: 200_000, Dir: t.TempDir()})
			var wg sync.WaitGroup
			for g := range uint64(4) {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(seed, g+1))
					for range 300 {
						req := w.randomRequest(r)
						for hops := r.IntN(4); hops >= 0; hops-- {
							req.Stream = uint64(r.IntN(3))
							res, err := rd.Read(t.Context(), req)
							if err != nil {
								t.Error(err)
								return
							}
							err = w.checkRead(req, res)
							req.From = res.Next
							res.Release()
							if err != nil {
								t.Error(err)
								return
							}
							if req.From >= w.manifest.RemoteEnd() {
								break
							}
						}
					}
				})
			}
			wg.Wait()
			w.readThrough(rd, 9, 7000)
			w.readThrough(rd, 9, 1<<20)
		})
	}
}

func TestOutsideOfTheBucket(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 1)), shape{objects: 2, batches: 10, body: 50, chunk: 1000})
	rd := w.reader(Options{}, cache.Options{})
	for _, off := range []record.Offset{0, w.manifest.LogStart() - 1, w.manifest.RemoteEnd()} {
		_, err := rd.Read(t.Context(), Request{TP: testTP, From: off, UpTo: 1 << 40, MaxBytes: 100})
		require.ErrorIs(t, err, ErrNotFound)
	}
}

// TestNarrowEntry: an entry may show less than its object holds, as after a
// fork or when the log start has moved.
func TestNarrowEntry(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(2, 2)), shape{objects: 1, batches: 60, body: 100, chunk: 1500})
	e := w.manifest.Entries()[0]
	cut, from := w.batches[30].BaseOffset, w.batches[10].BaseOffset
	e.End, e.Start = cut, from
	e.Epochs = []manifest.EpochStart{{Epoch: 1, Start: from}}
	m, err := manifest.New(from, cut, []manifest.Entry{e})
	require.NoError(t, err)
	w.setManifest(m)
	w.batches = w.batches[10:30]
	rd := w.reader(Options{}, cache.Options{})
	w.readThrough(rd, 0, 700)
	for _, b := range w.batches {
		req := Request{TP: testTP, From: b.BaseOffset, UpTo: 1 << 40, MaxBytes: 1 << 20}
		res, err := rd.Read(t.Context(), req)
		require.NoError(t, err)
		require.NoError(t, w.checkRead(req, res), "what the entry does not show is not served")
		res.Release()
	}
	_, ok, err := rd.OffsetForTime(t.Context(), testTP, 1)
	require.NoError(t, err)
	require.True(t, ok)
	_, _, _, err = rd.LastState(t.Context(), testTP)
	require.ErrorIs(t, err, object.ErrCorrupt, "the object's producers are not those at the entry's end")
}

// TestEntryEndsInGap: an entry can end where its object goes on after a gap that
// compaction left. Who reads from within the gap is sent on.
func TestEntryEndsInGap(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(20, 20)), shape{objects: 1, batches: 60, body: 100, chunk: 1500, gaps: true})
	gaps := 0
	for i := 1; i < len(w.batches); i++ {
		from, end := w.batches[i-1].NextOffset(), w.batches[i].BaseOffset
		if from == end {
			continue
		}
		gaps++
		e := w.manifest.Entries()[0]
		e.End = end
		m, err := manifest.New(e.Start, end, []manifest.Entry{e})
		require.NoError(t, err)
		narrow := &world{t: t, mem: w.mem, store: w.store, sizes: w.sizes, manifest: m}
		res, err := narrow.reader(Options{}, cache.Options{}).Read(t.Context(), Request{TP: testTP, From: from, UpTo: 1 << 40, MaxBytes: 1 << 20, AtLeastOne: true})
		require.NoError(t, err)
		require.Empty(t, res.Pieces)
		require.Equal(t, end, res.Next)
	}
	require.NotZero(t, gaps)
}

// TestTimes compares lookups by time with a walk over all records.
func TestTimes(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(3, 3)), shape{objects: 3, batches: 40, body: 20, chunk: 900, gaps: true})
	logStart := w.batches[7].BaseOffset + 1 // within a batch, if it has two records
	w.setManifest(w.manifest.WithLogStart(logStart))
	rd := w.reader(Options{}, cache.Options{MemoryBytes: 3000, DiskBytes: 8000, Dir: t.TempDir()})
	var all []Found
	for i := range w.batches {
		require.NoError(t, w.batches[i].Records(func(rec *record.Record) error {
			if rec.Offset >= logStart {
				all = append(all, Found{rec.Offset, rec.Timestamp, w.batches[i].LeaderEpoch})
			}
			return nil
		}))
	}
	most := all[0]
	for _, f := range all {
		if f.Timestamp > most.Timestamp {
			most = f
		}
	}
	for ts := all[0].Timestamp - 20; ts <= most.Timestamp+2; ts++ {
		var want Found
		var wantOK bool
		for _, f := range all {
			if f.Timestamp >= ts {
				want, wantOK = f, true
				break
			}
		}
		got, ok, err := rd.OffsetForTime(t.Context(), testTP, ts)
		require.NoError(t, err)
		require.Equal(t, wantOK, ok, "time %d", ts)
		if ok {
			require.Equal(t, want, got, "time %d", ts)
		}
	}
	got, ok, err := rd.MaxTimestamp(t.Context(), testTP)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, most, got)

	// With the newest record below the log start, the next newest counts.
	w.setManifest(w.manifest.WithLogStart(most.Offset + 1))
	want := Found{}
	for _, f := range all {
		if f.Offset > most.Offset && f.Timestamp > want.Timestamp {
			want = f
		}
	}
	got, ok, err = rd.MaxTimestamp(t.Context(), testTP)
	require.NoError(t, err)
	require.Equal(t, want.Offset > 0, ok)
	if ok {
		require.Equal(t, want, got)
	}
}

func TestEpochs(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(4, 4)), shape{objects: 3, batches: 5, body: 20, chunk: 900})
	es := w.manifest.Entries()
	for _, c := range []struct {
		ask, found record.Epoch
		end        record.Offset
		ok         bool
	}{
		{0, -1, es[0].Start, false},
		{1, 1, es[1].Start, true},
		{2, 2, es[2].Start, true},
		{3, 3, es[2].End, false},
		{9, 3, es[2].End, false},
	} {
		found, end, ok := EpochEnd(w.manifest, c.ask)
		require.Equal(t, c.found, found, "epoch %d", c.ask)
		require.Equal(t, c.end, end, "epoch %d", c.ask)
		require.Equal(t, c.ok, ok, "epoch %d", c.ask)
	}
	rd := w.reader(Options{}, cache.Options{})
	end, epochs, producers, err := rd.LastState(t.Context(), testTP)
	require.NoError(t, err)
	require.Equal(t, w.manifest.RemoteEnd(), end)
	require.Len(t, epochs, 3)
	require.Len(t, producers, 8)
	w.setManifest(manifest.Manifest{})
	_, _, _, err = rd.LastState(t.Context(), testTP)
	require.ErrorIs(t, err, ErrNotFound)
}

// TestSingleFlight: many readers of one place cost two GETs: footer and chunk.
// The first of them gives up, which disturbs nobody.
func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rand.New(rand.NewPCG(5, 5)), shape{objects: 1, batches: 40, body: 100, chunk: 1 << 20})
		w.faulty.SetPlan(func(faulty.Call) faulty.Fault { return faulty.Fault{Kind: faulty.Slow, Delay: time.Second} })
		rd := w.reader(Options{}, cache.Options{})
		req := Request{TP: testTP, From: w.manifest.LogStart(), UpTo: 1 << 40, MaxBytes: 1 << 20}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		first := make(chan error, 1)
		go func() {
			_, err := rd.Read(ctx, req)
			first <- err
		}()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				res, err := rd.Read(t.Context(), req)
				if err == nil {
					err = w.checkRead(req, res)
					res.Release()
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		require.ErrorIs(t, <-first, context.DeadlineExceeded)
		wg.Wait()
		require.Len(t, w.transcript(), 2)
	})
}

// TestHint: hints of several places are fetched at the same time, once each.
func TestHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rand.New(rand.NewPCG(19, 19)), shape{objects: 5, batches: 40, body: 100, chunk: 1 << 20})
		w.faulty.SetPlan(func(faulty.Call) faulty.Fault { return faulty.Fault{Kind: faulty.Slow, Delay: time.Second} })
		rd := w.reader(Options{}, cache.Options{})
		var reqs []Request
		for _, e := range w.manifest.Entries() {
			reqs = append(reqs, Request{TP: testTP, From: e.Start, UpTo: 1 << 40, MaxBytes: 1 << 20})
			rd.Hint(reqs[len(reqs)-1])
		}
		rd.Hint(Request{TP: testTP, From: 0})
		began := time.Now()
		for _, req := range reqs {
			res, err := rd.Read(t.Context(), req)
			require.NoError(t, err)
			require.NoError(t, w.checkRead(req, res))
			res.Release()
		}
		require.Equal(t, 2*time.Second, time.Since(began), "a footer and a chunk")
		require.Len(t, w.transcript(), 10)
	})
}

// TestFillOutlivesItsReader: a client with a short patience gets its data with
// a later request, at no further GET.
func TestFillOutlivesItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rand.New(rand.NewPCG(6, 6)), shape{objects: 1, batches: 40, body: 100, chunk: 1 << 20})
		w.faulty.SetPlan(func(faulty.Call) faulty.Fault { return faulty.Fault{Kind: faulty.Slow, Delay: 10 * time.Second} })
		rd := w.reader(Options{}, cache.Options{})
		req := Request{TP: testTP, From: w.manifest.LogStart(), UpTo: 1 << 40, MaxBytes: 1 << 20}
		tries := 0
		for {
			tries++
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			res, err := rd.Read(ctx, req)
			cancel()
			if err == nil {
				require.NoError(t, w.checkRead(req, res))
				res.Release()
				break
			}
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.Greater(t, tries, 30)
		require.Len(t, w.transcript(), 2)
	})
}

// TestFaults reads everything through a store that refuses, resets, hangs and
// flips bits, and gets the right bytes or an error, never others.
func TestFaults(t *testing.T) {
	for _, codec := range []object.Codec{object.CodecNone, object.CodecZstd} {
		t.Run(codec.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(7, 7))
				w := newWorld(t, r, shape{objects: 4, batches: 60, body: 200, chunk: 3000, gaps: true, meta: func(m *object.Meta) { m.Codec = codec }})
				chance := rand.New(rand.NewPCG(7, 8)) // for the plan alone, which the store locks
				w.faulty.SetPlan(func(c faulty.Call) faulty.Fault {
					switch chance.IntN(12) {
					case 0:
						return faulty.Fault{Kind: faulty.Unavailable}
					case 1:
						return faulty.Fault{Kind: faulty.Reset, At: int64(chance.IntN(3000))}
					case 2:
						return faulty.Fault{Kind: faulty.Stall, At: int64(chance.IntN(3000))}
					case 3:
						return faulty.Fault{Kind: faulty.Flip, At: int64(chance.IntN(3000))}
					case 4:
						return faulty.Fault{Kind: faulty.Hang}
					}
					return faulty.Fault{}
				})
				rd := w.reader(Options{GetBytes: 10_000, ReadAheadWindow: 20_000}, cache.Options{MemoryBytes: 30_000})
				for round := range 20 {
					for range 30 {
						req := w.randomRequest(r)
						req.Stream = uint64(r.IntN(2))
						res, err := rd.Read(t.Context(), req)
						if err != nil {
							require.NotErrorIs(t, err, ErrNotFound, "an outage says nothing about offsets")
							continue
						}
						require.NoError(t, w.checkRead(req, res), "round %d", round)
						res.Release()
					}
				}
				require.NotZero(t, rd.Stats().CorruptRepaired)
				w.faulty.SetPlan(nil)
				w.readThrough(rd, 3, 5000)
			})
		})
	}
}

func TestStoreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rand.New(rand.NewPCG(8, 8)), shape{objects: 2, batches: 60, body: 200, chunk: 3000})
		rd := w.reader(Options{}, cache.Options{})
		req := Request{TP: testTP, From: w.manifest.LogStart(), UpTo: 1 << 40, MaxBytes: 1}
		req.AtLeastOne = true
		w.faulty.SetPlan(func(faulty.Call) faulty.Fault { return faulty.Fault{Kind: faulty.Unavailable} })
		_, err := rd.Read(t.Context(), req)
		require.ErrorIs(t, err, ErrUnavailable)
		w.faulty.SetPlan(nil)
		res, err := rd.Read(t.Context(), req)
		require.NoError(t, err)
		res.Release()
		w.faulty.SetPlan(func(faulty.Call) faulty.Fault { return faulty.Fault{Kind: faulty.Unavailable} })
		res, err = rd.Read(t.Context(), req)
		require.NoError(t, err, "what is cached is served")
		res.Release()
		req.From = w.manifest.RemoteEnd() - 1
		_, err = rd.Read(t.Context(), req)
		require.ErrorIs(t, err, ErrUnavailable)
	})
}

// TestCorruptObject: damage in the store itself is named, counted, and hits the
// damaged chunk alone.
func TestCorruptObject(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(9, 9)), shape{objects: 1, batches: 100, body: 200, chunk: 3000})
	e := w.manifest.Entries()[0]
	key := objectKey(e.Object)
	body, err := w.mem.GetRange(t.Context(), key, 0, w.sizes[e.Object])
	require.NoError(t, err)
	data := new(bytes.Buffer)
	_, err = data.ReadFrom(body)
	require.NoError(t, err)
	whole, err := object.Open(t.Context(), object.OpenOptions{Store: w.mem, Key: key, Size: int64(data.Len())})
	require.NoError(t, err)
	bad := whole.Footer().Chunks[2]
	data.Bytes()[bad.Position+100] ^= 1
	_, err = w.mem.Put(t.Context(), key, bytes.NewReader(data.Bytes()), int64(data.Len()), objstore.PutOptions{})
	require.NoError(t, err)

	rd := w.reader(Options{}, cache.Options{})
	for _, k := range whole.Footer().Chunks {
		// So large a request that good and bad chunks come with one GET.
		req := Request{TP: testTP, From: k.Base, UpTo: 1 << 40, MaxBytes: 1 << 20}
		res, err := rd.Read(t.Context(), req)
		if k.Base == bad.Base {
			require.ErrorIs(t, err, object.ErrCorrupt)
			require.ErrorContains(t, err, "chunk 2")
			require.ErrorContains(t, err, e.Object.String())
			continue
		}
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(mustNaive(w, req), res.content(t)))
		res.Release()
	}
	require.NotZero(t, rd.Stats().Corrupt)
}

func mustNaive(w *world, req Request) []byte {
	raw, _, _ := w.naive(req)
	return raw
}

// TestObjectGone: reads of an object that retention deleted meanwhile look at
// the metadata again; one that the metadata still names is missing.
func TestObjectGone(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(10, 10)), shape{objects: 3, batches: 60, body: 200, chunk: 3000})
	rd := w.reader(Options{}, cache.Options{})
	es := w.manifest.Entries()
	read := func(off record.Offset) error {
		res, err := rd.Read(t.Context(), Request{TP: testTP, From: off, UpTo: 1 << 40, MaxBytes: 1, AtLeastOne: true})
		if err == nil {
			res.Release()
		}
		return err
	}
	require.NoError(t, read(es[0].Start))
	require.NoError(t, w.mem.Delete(t.Context(), objectKey(es[0].Object))[0])
	require.ErrorIs(t, read(es[0].End-1), ErrMissing)
	require.EqualValues(t, 1, rd.Stats().Missing)
	require.NoError(t, rd.DropObject(es[0].Object))
	require.ErrorIs(t, read(es[0].Start), ErrMissing, "nothing of it is cached any more")
	w.setManifest(w.manifest.WithLogStart(es[1].Start))
	require.ErrorIs(t, read(es[0].Start), ErrNotFound)
	require.NoError(t, read(es[1].Start))
}

// TestObjectMoves: an object that was moved to another place is found there,
// though its footer is known.
func TestObjectMoves(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(11, 11)), shape{objects: 1, batches: 60, body: 200, chunk: 3000})
	moved := false
	rd := w.reader(Options{}, cache.Options{})
	id := w.manifest.Entries()[0].Object
	rd.o.Locate = func(ctx context.Context, id uuid.UUID) (Location, error) {
		at, err := w.locate(ctx, id)
		if moved {
			at.Key += ".cold"
		}
		return at, err
	}
	req := Request{TP: testTP, From: w.manifest.LogStart(), UpTo: 1 << 40, MaxBytes: 1, AtLeastOne: true}
	res, err := rd.Read(t.Context(), req)
	require.NoError(t, err)
	res.Release()
	_, err = w.mem.Copy(t.Context(), objectKey(id), objectKey(id)+".cold", objstore.CopyOptions{})
	require.NoError(t, err)
	require.NoError(t, w.mem.Delete(t.Context(), objectKey(id))[0])
	moved = true
	req.From = w.manifest.RemoteEnd() - 1
	res, err = rd.Read(t.Context(), req)
	require.NoError(t, err)
	res.Release()
}

// TestReadAhead: sequential access is read ahead of with few, large GETs, over
// the ends of objects; a seek ends it.
func TestReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rand.New(rand.NewPCG(12, 12)), shape{objects: 4, batches: 200, body: 200, chunk: 4000})
		rd := w.reader(Options{GetBytes: 16_000, ReadAheadWindow: 40_000}, cache.Options{})
		var chunks int
		for at := w.manifest.LogStart(); at < w.manifest.RemoteEnd(); {
			res, err := rd.Read(t.Context(), Request{TP: testTP, From: at, UpTo: 1 << 40, MaxBytes: 2000, AtLeastOne: true, Stream: 1})
			require.NoError(t, err)
			res.Release()
			at = res.Next
			synctest.Wait() // the reader is slower than the store
			chunks++
		}
		s := rd.Stats()
		require.Greater(t, s.AheadChunks, s.Chunks*9/10, "all but the first come ahead")
		require.Less(t, s.Gets, s.Chunks/2, "adjacent chunks come together")
		require.EqualValues(t, 4, s.FooterOpens)

		// A new reader that jumps about is never read ahead of.
		for i := range 30 {
			res, err := rd.Read(t.Context(), Request{TP: testTP, From: w.batches[(i*577)%len(w.batches)].BaseOffset, UpTo: 1 << 40, MaxBytes: 2000, AtLeastOne: true, Stream: 2})
			require.NoError(t, err)
			res.Release()
			synctest.Wait()
		}
		require.Equal(t, s.AheadChunks, rd.Stats().AheadChunks)
		require.EqualValues(t, 29, rd.Stats().Seeks)
	})
}

// TestReadAheadIsBounded: what is read ahead and not read stays in memory within
// the budget, and is given back when the reader seeks, goes, or sleeps.
func TestReadAheadIsBounded(t *testing.T) {
	for _, end := range []string{"seek", "gone", "idle"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, rand.New(rand.NewPCG(13, 13)), shape{objects: 2, batches: 400, body: 200, chunk: 4000})
				rd := w.reader(Options{ReadAheadBytes: 100_000, ReadAheadWindow: 60_000}, cache.Options{MemoryBytes: 5000})
				at := w.manifest.LogStart()
				for range 8 {
					res, err := rd.Read(t.Context(), Request{TP: testTP, From: at, UpTo: 1 << 40, MaxBytes: 2000, AtLeastOne: true, Stream: 1})
					require.NoError(t, err)
					res.Release()
					at = res.Next
					synctest.Wait()
				}
				taken := func() bool {
					if rd.readAhead.TryAcquire(100_000) {
						rd.readAhead.Release(100_000)
						return false
					}
					return true
				}
				require.True(t, taken())
				ahead := rd.Stats().AheadBytes
				require.Less(t, ahead, int64(100_000))
				switch end {
				case "seek":
					res, err := rd.Read(t.Context(), Request{TP: testTP, From: w.manifest.LogStart(), UpTo: 1 << 40, MaxBytes: 2000, AtLeastOne: true, Stream: 1})
					require.NoError(t, err)
					res.Release()
				case "gone":
					rd.CloseStream(1)
				case "idle":
					time.Sleep(time.Minute) // in the test's own time
				}
				synctest.Wait()
				require.False(t, taken())
				require.Equal(t, ahead, rd.Stats().AheadBytes)
			})
		})
	}
}

// TestPinnedBudget: who finds no room waits, without harm to who holds it.
func TestPinnedBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rand.New(rand.NewPCG(14, 14)), shape{objects: 1, batches: 100, body: 200, chunk: 4000})
		rd := w.reader(Options{PinnedBytes: 6000}, cache.Options{})
		req := Request{TP: testTP, From: w.manifest.LogStart(), UpTo: 1 << 40, MaxBytes: 1 << 20, AtLeastOne: true}
		held, err := rd.Read(t.Context(), req)
		require.NoError(t, err)
		require.Len(t, held.Pieces, 1, "no room for a second chunk")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = rd.Read(ctx, req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		more := req
		more.AtLeastOne = false
		none, err := rd.Read(t.Context(), more)
		require.NoError(t, err, "who may hold memory already does not wait for more")
		require.Zero(t, none.Bytes)
		require.Equal(t, req.From, none.Next)
		done := make(chan error, 1)
		go func() {
			res, err := rd.Read(t.Context(), req)
			if err == nil {
				res.Release()
			}
			done <- err
		}()
		synctest.Wait()
		held.Release()
		held.Release()
		require.NoError(t, <-done)
	})
}

func TestFooterCacheIsBounded(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(15, 15)), shape{objects: 20, batches: 5, body: 20, chunk: 500})
	rd := w.reader(Options{FooterBytes: 3000}, cache.Options{})
	w.readThrough(rd, 0, 1000)
	s := rd.Stats()
	require.LessOrEqual(t, s.FooterBytes, int64(3000))
	require.Less(t, s.Footers, 20)
	require.EqualValues(t, 20, s.FooterOpens)
}

func TestCloseAnswersWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, rand.New(rand.NewPCG(16, 16)), shape{objects: 1, batches: 5, body: 20, chunk: 500})
		w.faulty.SetPlan(func(faulty.Call) faulty.Fault { return faulty.Fault{Kind: faulty.Hang} })
		rd := w.reader(Options{}, cache.Options{})
		done := make(chan error, 1)
		go func() {
			_, err := rd.Read(t.Context(), Request{TP: testTP, From: w.manifest.LogStart(), UpTo: 1 << 40, MaxBytes: 1})
			done <- err
		}()
		synctest.Wait()
		require.NoError(t, rd.Close())
		require.ErrorIs(t, <-done, ErrClosed)
	})
}

// TestRestartOnDisk: chunks on disk from before a restart are served from there, at
// no GET but the footers'.
func TestRestartOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newWorld(t, rand.New(rand.NewPCG(17, 17)), shape{objects: 2, batches: 100, body: 200, chunk: 4000})
		opts := cache.Options{MemoryBytes: 1, DiskBytes: 1 << 20, Dir: dir}
		c, err := cache.Open(opts)
		require.NoError(t, err)
		rd, err := New(Options{Entries: w, Locate: w.locate, Cache: c})
		require.NoError(t, err)
		w.readThrough(rd, 0, 5000)
		synctest.Wait()
		require.NoError(t, rd.Close())
		require.NoError(t, c.Close())
		w.transcript()

		rd = w.reader(Options{}, opts)
		w.readThrough(rd, 0, 5000)
		require.Len(t, w.transcript(), 2)
		res, err := rd.Read(t.Context(), Request{TP: testTP, From: w.batches[50].BaseOffset, UpTo: 1 << 40, MaxBytes: 3000, AtLeastOne: true})
		require.NoError(t, err)
		res.Release()
	})
}

// TestSpans compares the sparse index's search with a walk, for chunks in which
// batches are small against the index's interval and where they are not.
func TestSpans(t *testing.T) {
	for _, body := range []int{10, 3000, 100_000} {
		t.Run(fmt.Sprint(body), func(t *testing.T) {
			r := rand.New(rand.NewPCG(18, uint64(body)))
			w := newWorld(t, r, shape{objects: 1, batches: 400_000/(body+200) + 5, body: body, chunk: 1 << 30, gaps: true})
			var raw []byte
			for i := range w.batches {
				raw = append(raw, w.batches[i].Raw...)
			}
			k := &object.Chunk{Base: w.batches[0].BaseOffset, End: w.batches[len(w.batches)-1].NextOffset()}
			idx, err := indexChunk(raw, k)
			require.NoError(t, err)
			for range 2000 {
				req := w.randomRequest(r)
				req.MaxBytes = r.Int64N(300_000)
				if req.From >= k.End {
					continue
				}
				s, err := idx.find(raw, req.From, req.UpTo, req.MaxBytes, req.AtLeastOne)
				require.NoError(t, err)
				want, _, next := w.naive(req)
				require.True(t, bytes.Equal(want, raw[s.pos:s.end]), "%+v", req)
				if len(want) > 0 {
					require.Equal(t, next, s.next)
				}
			}
			_, err = indexChunk(raw[:len(raw)-1], k)
			require.ErrorIs(t, err, record.ErrTruncated)
			k.End++
			_, err = indexChunk(raw, k)
			require.Error(t, err)
		})
	}
}

// FuzzSpans gives arbitrary chunks and requests to the walk over batches.
func FuzzSpans(f *testing.F) {
	b := record.NewBuilder(record.BuilderOptions{})
	b.Append(1, nil, []byte("value"))
	f.Add(append(b.Build(), b.Build()...), int64(0), int64(5), int64(100), true)
	f.Add([]byte{}, int64(0), int64(0), int64(0), false)
	f.Fuzz(func(t *testing.T, raw []byte, from, upTo, maxBytes int64, one bool) {
		k := &object.Chunk{}
		for batch, err := range record.Batches(raw) {
			if err != nil {
				break
			}
			if k.RawLen == 0 {
				k.Base = batch.BaseOffset
			}
			k.End = batch.NextOffset()
			k.RawLen += int64(batch.Size())
		}
		raw = raw[:k.RawLen:k.RawLen]
		idx, err := indexChunk(raw, k)
		if err != nil || len(raw) == 0 {
			return
		}
		s, err := idx.find(raw, record.Offset(from), record.Offset(upTo), max(maxBytes, 0), one)
		if err != nil {
			t.Fatalf("an indexed chunk does not read: %v", err)
		}
		if s.pos < 0 || s.end < s.pos || s.end > int64(len(raw)) {
			t.Fatalf("%+v of %d bytes", s, len(raw))
		}
		if s.end > s.pos && (s.next <= record.Offset(from) || s.next > record.Offset(upTo)) {
			t.Fatalf("%+v for %d to %d", s, from, upTo)
		}
	})
}
