package commitlog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// env is a log's surroundings in a test.
type env struct {
	t       testing.TB
	fs      vfs.FS
	dir     string
	flusher *Flusher
	fds     *segment.FDCache
	cfg     Config
	initial record.Offset

	mu      sync.Mutex
	flushed []record.Offset
	fatal   []error
}

func newEnv(t testing.TB, fs vfs.FS, dir string) *env {
	e := &env{t: t, fs: fs, dir: dir, fds: segment.NewFDCache(64)}
	e.flusher = NewFlusher(FlusherOptions{Workers: 2, OnFatal: func(_ string, err error) {
		e.mu.Lock()
		e.fatal = append(e.fatal, err)
		e.mu.Unlock()
	}})
	e.cfg = Config{SegmentBytes: 2000, IndexIntervalBytes: 200}
	t.Cleanup(e.flusher.Close)
	return e
}

// memFS is a crashable file system with a durable directory /data.
func memFS(t testing.TB) *vfs.MemFS {
	fs := vfs.NewCrashableMem()
	require.NoError(t, fs.MkdirAll("/data", 0o755))
	require.NoError(t, segment.SyncDir(fs, "/"))
	return fs
}

func memEnv(t testing.TB) *env { return newEnv(t, memFS(t), "/data/topic/0") }

func (e *env) options() Options {
	return Options{
		FS: e.fs, Dir: e.dir, Flusher: e.flusher, FDs: e.fds, Config: e.cfg, InitialOffset: e.initial,
		OnFlushed: func(end record.Offset) {
			e.mu.Lock()
			e.flushed = append(e.flushed, end)
			e.mu.Unlock()
		},
	}
}

func (e *env) open() *Log {
	l, err := Open(e.options())
	require.NoError(e.t, err)
	return l
}

// batch makes a stamped batch of records whose values are v0, v1, ….
func batch(base record.Offset, epoch record.Epoch, ts int64, values ...string) record.Batch {
	bb := record.NewBuilder(record.BuilderOptions{})
	for i, v := range values {
		bb.Append(ts+int64(i), []byte("k"), []byte(v))
	}
	return stamped(bb.Build(), base, epoch)
}

func stamped(raw []byte, base record.Offset, epoch record.Epoch) record.Batch {
	b, err := record.ReadBatch(raw)
	if err != nil {
		panic(err)
	}
	b.Stamp(base, epoch)
	return b
}

func idempotent(base record.Offset, id int64, epoch int16, seq int32, txn bool, n int) record.Batch {
	bb := record.NewBuilder(record.BuilderOptions{Idempotent: true, ProducerID: id, ProducerEpoch: epoch, BaseSequence: seq, Transactional: txn})
	for i := range n {
		bb.Append(1000, []byte("k"), fmt.Appendf(nil, "v%d", i))
	}
	return stamped(bb.Build(), base, 0)
}

func marker(base record.Offset, id int64, epoch int16, commit bool) record.Batch {
	return stamped(record.EndTxnMarker{Commit: commit, CoordinatorEpoch: 1}.Batch(id, epoch, 1000), base, 0)
}

// fill appends n batches of two records each.
func fill(t testing.TB, l *Log, n int) {
	for range n {
		require.NoError(t, l.Append([]record.Batch{batch(l.End(), 0, int64(l.End())*10, "value-one", "value-two")}))
	}
}

func flush(t testing.TB, l *Log) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(t, l.Flush(ctx))
}

// readAll reads the log from an offset, in slices of at most maxBytes.
func readAll(t require.TestingT, l *Log, from record.Offset, maxBytes int) []byte {
	var all []byte
	for from < l.End() {
		s, err := l.Read(from, l.End(), maxBytes, true)
		require.NoError(t, err)
		b, err := s.ReadAll(nil)
		s.Release()
		require.NoError(t, err)
		require.Greater(t, s.Next, from)
		all = append(all, b...)
		from = s.Next
	}
	return all
}

func offsets(t testing.TB, raw []byte) []record.Offset {
	var all []record.Offset
	for b, err := range record.Batches(raw) {
		require.NoError(t, err)
		require.NoError(t, b.VerifyCRC())
		require.NoError(t, b.Records(func(r *record.Record) error {
			all = append(all, r.Offset)
			return nil
		}))
	}
	return all
}

func upTo(n record.Offset) []record.Offset {
	var all []record.Offset
	for o := range n {
		all = append(all, o)
	}
	return all
}

func TestAppendReadReopen(t *testing.T) {
	for _, real := range []bool{false, true} {
		t.Run(fmt.Sprintf("real=%v", real), func(t *testing.T) {
			e := memEnv(t)
			if real {
				e.fs, e.dir = vfs.Default, t.TempDir()+"/topic/0"
			}
			l := e.open()
			fill(t, l, 100)
			require.NoError(t, l.Append([]record.Batch{
				batch(200, 1, 1, "a"), batch(201, 1, 1, "b", "c"), batch(203, 2, 1, "d"),
			}))
			require.EqualValues(t, 204, l.End())
			require.Greater(t, len(l.Segments()), 3)
			require.Equal(t, upTo(204), offsets(t, readAll(t, l, 0, 500)))
			raw := readAll(t, l, 0, 1<<20)
			flush(t, l)
			require.EqualValues(t, 204, l.FlushedEnd())
			for _, clean := range []bool{true, false, false, true} {
				require.NoError(t, l.Close(clean))
				l = e.open()
				require.EqualValues(t, 204, l.End())
				require.Equal(t, raw, readAll(t, l, 0, 700))
				require.Equal(t, []EpochStart{{0, 0}, {1, 200}, {2, 203}}, l.Epochs())
			}
			require.NoError(t, l.Close(true))
			require.Empty(t, e.fatal)
			require.IsIncreasing(t, e.flushed)
			require.Zero(t, e.fds.Open())
		})
	}
}

func TestReadLimits(t *testing.T) {
	e := memEnv(t)
	l := e.open()
	defer l.Close(true)
	fill(t, l, 10) // batches [0,2), [2,4), …
	size := int64(len(batch(0, 0, 0, "value-one", "value-two").Raw))

	s, err := l.Read(3, 20, 1, false)
	require.NoError(t, err)
	require.Zero(t, s.Bytes)
	require.EqualValues(t, 3, s.Next)

	s, err = l.Read(3, 20, 1, true)
	require.NoError(t, err)
	require.Equal(t, size, s.Bytes)
	require.EqualValues(t, 2, s.First)
	require.EqualValues(t, 4, s.Next)
	s.Release()

	s, err = l.Read(3, 9, 1<<20, true) // batch [8,10) is not below 9
	require.NoError(t, err)
	require.EqualValues(t, 8, s.Next)
	require.Equal(t, 3*size, s.Bytes)
	s.Release()

	for _, o := range []record.Offset{-1, 21} {
		_, err = l.Read(o, 20, 1, true)
		require.ErrorIs(t, err, ErrOutOfRange)
	}
	s, err = l.Read(20, 20, 1, true)
	require.NoError(t, err)
	require.Zero(t, s.Bytes)
}

func TestAppendRefusesWhatDoesNotFollow(t *testing.T) {
	e := memEnv(t)
	l := e.open()
	defer l.Close(true)
	fill(t, l, 2)
	require.ErrorIs(t, l.Append([]record.Batch{batch(3, 0, 0, "x")}), ErrNotContiguous)
	require.ErrorIs(t, l.Append([]record.Batch{batch(4, 0, 0, "x"), batch(4, 0, 0, "x")}), ErrNotContiguous)
	// A follower of a compacted log has gaps.
	require.NoError(t, l.Append([]record.Batch{batch(10, 0, 0, "x")}))
	require.Equal(t, []record.Offset{0, 1, 2, 3, 10}, offsets(t, readAll(t, l, 0, 1000)))
}

func TestTrimAndOpenSlices(t *testing.T) {
	e := memEnv(t)
	l := e.open()
	fill(t, l, 100)
	s, err := l.Read(0, 10, 1<<20, true)
	require.NoError(t, err)
	infos := l.Segments()
	freed, err := l.TrimTo(infos[2].End)
	require.NoError(t, err)
	require.Equal(t, infos[0].Bytes+infos[1].Bytes+infos[2].Bytes, freed)
	require.Equal(t, infos[2].End, l.Start())
	_, err = l.Read(0, 10, 1, true)
	require.ErrorIs(t, err, ErrOutOfRange)
	b, err := s.ReadAll(nil)
	require.NoError(t, err)
	require.Equal(t, upTo(10), offsets(t, b))
	s.Release()
	freed, err = l.TrimTo(l.End())
	require.NoError(t, err)
	require.Positive(t, freed)
	require.Len(t, l.Segments(), 1)
	require.NoError(t, l.Close(false))
	l = e.open()
	require.EqualValues(t, 200, l.End())
	require.Len(t, l.Segments(), 1)
	require.NoError(t, l.Close(true))
}

// TestBelow, against what Segments says. It is asked once a second of each tiered
// partition with a follower that trimmed first, so it makes no garbage.
func TestBelow(t *testing.T) {
	l := memEnv(t).open()
	fill(t, l, 100)
	require.Greater(t, len(l.Segments()), 3)
	_, err := l.TrimTo(l.Segments()[0].End)
	require.NoError(t, err)
	require.Positive(t, l.Start())
	_, err = l.Roll() // an empty one at the end
	require.NoError(t, err)
	for at := range l.End() + 2 {
		var segments int
		var bytes, of int64
		for _, s := range l.Segments() {
			of += s.Bytes
			if s.End <= at && s.Bytes > 0 {
				segments, bytes = segments+1, bytes+s.Bytes
			}
		}
		gotSegments, gotBytes, gotOf := l.Below(at)
		require.Equal(t, []int64{int64(segments), bytes, of}, []int64{int64(gotSegments), gotBytes, gotOf}, "below %d", at)
	}
	require.Zero(t, testing.AllocsPerRun(10, func() { l.Below(l.End()) }))
}

func TestTruncate(t *testing.T) {
	for _, real := range []bool{false, true} {
		e := memEnv(t)
		if real {
			e.fs, e.dir = vfs.Default, t.TempDir()+"/topic/0"
		}
		l := e.open()
		fill(t, l, 100)
		require.NoError(t, l.AssignEpoch(7, 150))
		require.NoError(t, l.TruncateTo(121)) // inside [120, 122)
		require.EqualValues(t, 120, l.End())
		require.Equal(t, []EpochStart{{0, 0}}, l.Epochs())
		require.Equal(t, upTo(120), offsets(t, readAll(t, l, 0, 1000)))
		fill(t, l, 20)
		require.Equal(t, upTo(160), offsets(t, readAll(t, l, 0, 1000)))
		require.NoError(t, l.Close(false))
		l = e.open()
		require.Equal(t, upTo(160), offsets(t, readAll(t, l, 0, 1000)))
		require.NoError(t, l.TruncateTo(l.Segments()[1].Base))
		require.EqualValues(t, l.Segments()[1].Base, l.End())
		require.NoError(t, l.TruncateTo(0))
		require.Zero(t, l.End())
		fill(t, l, 5)
		require.NoError(t, l.Close(true))
		l = e.open()
		require.Equal(t, upTo(10), offsets(t, readAll(t, l, 0, 1000)))
		require.NoError(t, l.Close(true))
	}
}

func TestResetTo(t *testing.T) {
	e := memEnv(t)
	l := e.open()
	fill(t, l, 50)
	require.NoError(t, l.Append([]record.Batch{idempotent(100, 9, 0, 0, false, 3)}))
	snapshot, err := l.ProducerSnapshotAt(l.End())
	require.NoError(t, err)
	require.ErrorIs(t, l.ResetTo(40, nil, snapshot), ErrOutOfRange)
	for _, at := range []record.Offset{103, 1000, 400, 0} {
		producers := 1
		if at == 0 {
			snapshot, producers = nil, 0
		}
		require.NoError(t, l.ResetTo(at, []EpochStart{{3, 0}}, snapshot))
		require.Equal(t, at, l.Start())
		require.Equal(t, at, l.End())
		require.EqualValues(t, 3, l.LastEpoch())
		require.Len(t, l.Producers(), producers)
		require.NoError(t, l.Close(false))
		l = e.open()
		require.Equal(t, at, l.End())
		require.Len(t, l.Producers(), producers)
		require.NoError(t, l.Append([]record.Batch{batch(at, 3, 5, "after")}))
		require.Equal(t, []record.Offset{at}, offsets(t, readAll(t, l, at, 1000)))
	}
	require.NoError(t, l.Close(true))
}

func TestLookupTime(t *testing.T) {
	e := memEnv(t)
	l := e.open()
	defer l.Close(true)
	fill(t, l, 60) // record o has timestamp (o &^ 1)*10 + o&1
	flush(t, l)
	for ts := int64(0); ts < 1200; ts++ {
		want := record.NoOffset
		for o := record.Offset(0); o < 120; o++ {
			if int64(o&^1)*10+int64(o&1) >= ts {
				want = o
				break
			}
		}
		got, gotTS, _, ok, err := l.LookupTime(ts)
		require.NoError(t, err)
		require.Equal(t, want != record.NoOffset, ok)
		require.Equal(t, want, got)
		if ok {
			require.Equal(t, int64(want&^1)*10+int64(want&1), gotTS)
		}
	}
	// From a raised log start, which may lie within a batch or at the end.
	for from := record.Offset(0); from <= 120; from++ {
		for _, ts := range []int64{0, int64(from&^1) * 10, int64(from&^1)*10 + 1, int64(from&^1)*10 + 2, 1180, 1181, 1182} {
			want := record.NoOffset
			for o := from; o < 120; o++ {
				if int64(o&^1)*10+int64(o&1) >= ts {
					want = o
					break
				}
			}
			got, _, _, ok, err := l.LookupTimeFrom(ts, from)
			require.NoError(t, err)
			require.Equal(t, want != record.NoOffset, ok)
			require.Equal(t, want, got, "time %d from %d", ts, from)
		}
	}
	o, ts, epoch, ok, err := l.MaxTimestamp()
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, 119, o)
	require.EqualValues(t, 1181, ts)
	require.EqualValues(t, 0, epoch)
}

func TestRollByAge(t *testing.T) {
	e := memEnv(t)
	e.cfg.SegmentAge = time.Hour
	l := e.open()
	defer l.Close(true)
	rolled, err := l.MaybeRoll(time.Now().Add(2 * time.Hour))
	require.NoError(t, err)
	require.False(t, rolled, "an empty segment stays")
	fill(t, l, 1)
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{0, false}, {2 * time.Hour, true}, {2 * time.Hour, false}} {
		rolled, err := l.MaybeRoll(time.Now().Add(c.after))
		require.NoError(t, err)
		require.Equal(t, c.want, rolled)
	}
	require.Len(t, l.Segments(), 2)
}

func TestEpochEnd(t *testing.T) {
	e := memEnv(t)
	l := e.open()
	defer l.Close(true)
	ask := func(epoch record.Epoch) string {
		e, o := l.EpochEnd(epoch)
		return fmt.Sprintf("%d %d", e, o)
	}
	require.Equal(t, "-1 -1", ask(0))
	require.NoError(t, l.Append([]record.Batch{batch(0, 2, 0, "a", "b")}))
	require.NoError(t, l.AssignEpoch(4, 2)) // writes nothing
	require.NoError(t, l.Append([]record.Batch{batch(2, 6, 0, "c")}))
	for epoch, want := range map[record.Epoch]string{
		-1: "-1 -1", 0: "0 0", 1: "1 0", 2: "2 2", 3: "2 2", 4: "4 2", 5: "4 2", 6: "6 3", 7: "-1 -1",
	} {
		require.Equal(t, want, ask(epoch), "epoch %d", epoch)
	}
}

func TestTransactions(t *testing.T) {
	e := memEnv(t)
	l := e.open()
	require.Equal(t, record.NoOffset, l.FirstUnstable())
	require.NoError(t, l.Append([]record.Batch{
		idempotent(0, 1, 0, 0, true, 2), // aborted at 4
		idempotent(2, 2, 0, 0, true, 2), // committed at 5
		marker(4, 1, 0, false),
	}))
	require.EqualValues(t, 2, l.FirstUnstable())
	require.EqualValues(t, 0, l.LastStable(4), "the marker at 4 is not replicated yet")
	require.EqualValues(t, 2, l.LastStable(5))
	require.NoError(t, l.Append([]record.Batch{marker(5, 2, 0, true), batch(6, 0, 0, "x")}))
	require.Equal(t, record.NoOffset, l.FirstUnstable())
	require.EqualValues(t, 2, l.LastStable(5))
	require.EqualValues(t, 7, l.LastStable(7))
	check := func() {
		a, err := l.AbortedTxns(0, 7)
		require.NoError(t, err)
		require.Len(t, a, 1)
		require.EqualValues(t, 0, a[0].First)
		require.EqualValues(t, 4, a[0].Last)
		require.EqualValues(t, 2, a[0].LastStable)
		a, err = l.AbortedTxns(5, 7)
		require.NoError(t, err)
		require.Empty(t, a)
	}
	check()
	require.NoError(t, l.Close(true))
	l = e.open()
	check()
	fill(t, l, 100) // seal it
	flush(t, l)
	check()
	require.NoError(t, l.Close(false))
	l = e.open()
	check()
	// A damaged index is made anew by replay.
	require.NoError(t, segment.WriteFile(e.fs, l.place.Path(0, txnIndexSuffix), []byte("rubbish"), true))
	check()
	check()
	require.NoError(t, l.Close(true))
}

func TestProducersSurvive(t *testing.T) {
	e := memEnv(t)
	l := e.open()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		id := rng.Int64N(5)
		seq := int32(0)
		for _, p := range l.Producers() {
			if p.ProducerID == id {
				seq = p.LastSequence + 1
			}
		}
		b := idempotent(l.End(), id, 0, seq, false, 1+rng.IntN(3))
		v, err := l.CheckProducer(&b.Header)
		require.NoError(t, err)
		require.False(t, v.Duplicate)
		require.NoError(t, l.Append([]record.Batch{b}))
		v, err = l.CheckProducer(&b.Header)
		require.NoError(t, err)
		require.True(t, v.Duplicate)
		require.Equal(t, b.BaseOffset, v.Base)
	}
	want := l.Producers()
	atEnd, err := l.ProducerSnapshotAt(l.End())
	require.NoError(t, err)
	mid := l.Segments()[2].Base
	atMid, err := l.ProducerSnapshotAt(mid)
	require.NoError(t, err)
	flush(t, l)
	again, err := l.ProducerSnapshotAt(mid)
	require.NoError(t, err)
	require.Equal(t, atMid, again, "from memory and from the file")
	for _, clean := range []bool{false, true, false} {
		require.NoError(t, l.Close(clean))
		l = e.open()
		require.Equal(t, want, l.Producers())
	}
	// Without any snapshot the state comes from the batches.
	for _, s := range l.Segments() {
		require.NoError(t, segment.RemoveFile(e.fs, l.place.Path(s.Base, snapshotSuffix)))
	}
	end := l.End()
	require.NoError(t, l.TruncateTo(mid))
	state, err := l.ProducerSnapshotAt(mid)
	require.NoError(t, err)
	require.Equal(t, len(atMid), len(state))
	require.NotEqual(t, end, l.End())
	require.NotEqual(t, atEnd, state)
	require.NoError(t, l.Close(true))
}

func TestDescriptorsAreBounded(t *testing.T) {
	e := memEnv(t)
	e.fds = segment.NewFDCache(10)
	var logs []*Log
	for i := range 50 {
		e.dir = fmt.Sprintf("/data/topic/%d", i)
		l := e.open()
		fill(t, l, 30)
		flush(t, l)
		logs = append(logs, l)
	}
	for _, l := range logs {
		require.Equal(t, upTo(60), offsets(t, readAll(t, l, 0, 500)))
	}
	for _, l := range logs {
		store(t, l) // no flush is under way any more, nothing is pinned
	}
	require.LessOrEqual(t, e.fds.Open(), 10)
	for _, l := range logs {
		require.NoError(t, l.Close(true))
	}
	require.Zero(t, e.fds.Open())
}
