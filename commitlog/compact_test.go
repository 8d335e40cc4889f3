package commitlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/record"
)

// keyed makes a batch of records from pairs of key and value; "-" is null.
func keyed(base record.Offset, codec record.Codec, pairs ...string) record.Batch {
	bb := record.NewBuilder(record.BuilderOptions{Codec: codec})
	for i := 0; i < len(pairs); i += 2 {
		var v []byte
		if pairs[i+1] != "-" {
			v = []byte(pairs[i+1])
		}
		bb.Append(1000+int64(i), []byte(pairs[i]), v)
	}
	return stamped(bb.Build(), base, 0)
}

// store waits until what was sealed is synced and its indexes are written,
// which compaction asks for; FlushedEnd alone does not say so.
func store(t testing.TB, l *Log) {
	l.files.Lock()
	defer l.files.Unlock()
	require.NoError(t, l.flush(false, nil))
}

type keptRecord struct {
	offset     record.Offset
	timestamp  int64
	key, value string
}

func records(t testing.TB, l *Log) []keptRecord {
	var all []keptRecord
	for b, err := range record.Batches(readAll(t, l, l.Start(), 1<<16)) {
		require.NoError(t, err)
		require.NoError(t, b.VerifyCRC())
		if b.IsControl() {
			continue
		}
		require.NoError(t, b.Records(func(r *record.Record) error {
			v := string(r.Value)
			if r.Value == nil {
				v = "-"
			}
			all = append(all, keptRecord{r.Offset, r.Timestamp, string(r.Key), v})
			return nil
		}))
	}
	return all
}

// latest is the naive compaction: of the records below cut the last of each
// key, of those at or above it all.
func latest(all []keptRecord, cut record.Offset) []keptRecord {
	last := map[string]record.Offset{}
	for _, r := range all {
		if r.offset < cut {
			last[r.key] = r.offset
		}
	}
	var kept []keptRecord
	for _, r := range all {
		if o, ok := last[r.key]; !ok || r.offset >= o {
			kept = append(kept, r)
		}
	}
	return kept
}

func TestCompactAgainstNaive(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		e := memEnv(t)
		e.cfg.MinCleanableRatio = -1
		l := e.open()
		for round := range 3 {
			for range 60 + rng.IntN(60) {
				var pairs []string
				for range 1 + rng.IntN(4) {
					pairs = append(pairs, fmt.Sprintf("key-%d", rng.IntN(30)), fmt.Sprint("value ", rng.Uint64()))
				}
				require.NoError(t, l.Append([]record.Batch{keyed(l.End(), record.Codec(rng.IntN(5)), pairs...)}))
			}
			store(t, l)
			all := records(t, l)
			mapBytes := int64(0)
			if seed%3 == 0 {
				mapBytes = 10 * bytesPerKey // not all keys fit
			}
			before := len(l.Segments())
			var stats CompactStats
			for {
				was := l.cleanedEnd()
				var err error
				stats, err = l.Compact(context.Background(), CompactOptions{Now: time.Now(), UpTo: l.End(), MapBytes: mapBytes})
				require.NoError(t, err)
				if !stats.Cleaned || stats.CleanedEnd == was {
					break
				}
			}
			infos := l.Segments()
			active := infos[len(infos)-1].Base
			require.Equal(t, latest(all, active), records(t, l), "seed %d round %d", seed, round)
			if round == 2 { // what an earlier round made small is merged
				require.Less(t, len(infos), before)
			}
			// All lookups still work, in memory and after a restart.
			want := records(t, l)
			if seed%2 == 0 {
				require.NoError(t, l.Close(seed%4 == 0))
				l = e.open()
			}
			require.Equal(t, want, records(t, l))
			for _, r := range want {
				s, err := l.Read(r.offset, l.End(), 1, true)
				require.NoError(t, err)
				require.LessOrEqual(t, s.First, r.offset)
				require.Greater(t, s.Next, r.offset)
				s.Release()
			}
		}
		require.NoError(t, l.Close(true))
	}
}

func TestCompactTombstones(t *testing.T) {
	e := memEnv(t)
	e.cfg.MinCleanableRatio = -1
	e.cfg.DeleteRetention = time.Hour
	l := e.open()
	defer l.Close(true)
	roll := func() {
		_, err := l.MaybeRoll(time.Now().Add(10000 * time.Hour))
		require.NoError(t, err)
		store(t, l)
	}
	compact := func(now time.Time) CompactStats {
		stats, err := l.Compact(context.Background(), CompactOptions{Now: now, UpTo: l.End(), Force: true})
		require.NoError(t, err)
		return stats
	}
	now := time.Now()
	require.NoError(t, l.Append([]record.Batch{keyed(0, 0, "a", "1", "b", "2", "a", "-")}))
	roll()
	require.NoError(t, l.Append([]record.Batch{keyed(3, 0, "c", "3")}))
	roll()
	store(t, l)
	require.True(t, compact(now).Cleaned)
	require.Equal(t, []keptRecord{{1, 1002, "b", "2"}, {2, 1004, "a", "-"}, {3, 1000, "c", "3"}}, records(t, l))
	require.False(t, compact(now).Cleaned, "nothing new")

	appendAndRoll := func() {
		require.NoError(t, l.Append([]record.Batch{keyed(l.End(), 0, "c", fmt.Sprint(l.End()))}))
		roll()
		store(t, l)
	}
	appendAndRoll()
	require.True(t, compact(now.Add(59*time.Minute)).Cleaned)
	require.Contains(t, records(t, l), keptRecord{2, 1004, "a", "-"})
	appendAndRoll()
	require.True(t, compact(now.Add(61*time.Minute)).Cleaned)
	require.Equal(t, []keptRecord{{1, 1002, "b", "2"}, {5, 1000, "c", "5"}}, records(t, l))
}

func TestCompactTransactions(t *testing.T) {
	e := memEnv(t)
	e.cfg.MinCleanableRatio = -1
	e.cfg.DeleteRetention = time.Hour
	e.cfg.SegmentBytes = 1 << 20
	l := e.open()
	now := time.Now()
	run := func(at time.Time) {
		_, err := l.MaybeRoll(now.Add(10000 * time.Hour))
		require.NoError(t, err)
		store(t, l)
		stats, err := l.Compact(context.Background(), CompactOptions{Now: at, UpTo: l.LastStable(l.End()), Force: true})
		require.NoError(t, err)
		require.True(t, stats.Cleaned)
	}
	markers := func() (at []record.Offset) {
		for b, err := range record.Batches(readAll(t, l, 0, 1<<20)) {
			require.NoError(t, err)
			if b.IsControl() {
				at = append(at, b.BaseOffset)
			}
		}
		return at
	}
	require.NoError(t, l.Append([]record.Batch{
		idempotent(0, 1, 0, 0, true, 2), marker(2, 1, 0, false), // aborted
		idempotent(3, 2, 0, 0, true, 2), marker(5, 2, 0, true), // committed, then overwritten
		idempotent(6, 2, 0, 2, true, 2), marker(8, 2, 0, true), // committed, 7 stays
	}))
	producers := l.Producers()
	run(now)
	require.Equal(t, []keptRecord{{7, 1000, "k", "v1"}}, records(t, l))
	require.Equal(t, []record.Offset{2, 5, 8}, markers())
	aborted, err := l.AbortedTxns(0, l.End())
	require.NoError(t, err)
	require.Empty(t, aborted)
	require.NoError(t, l.Append([]record.Batch{batch(9, 0, 0, "x")})) // key k
	run(now.Add(2 * time.Hour))
	// The marker of what was kept until now gets its horizon only now.
	require.Equal(t, []record.Offset{8}, markers())
	require.Equal(t, []keptRecord{{9, 0, "k", "x"}}, records(t, l))
	require.Equal(t, producers, l.Producers())
	// The state can be made from the log alone: the last batch of a producer is
	// there without its records, and its marker's absence opens no transaction.
	require.NoError(t, l.Close(true))
	require.NoError(t, e.fs.Remove(e.dir+"/"+checkpointName))
	l = e.open()
	require.Equal(t, record.NoOffset, l.FirstUnstable())
	after := l.Producers()
	require.Len(t, after, 2)
	for i := range after {
		require.Equal(t, producers[i].LastSequence, after[i].LastSequence)
	}
	require.NoError(t, l.Close(true))
}

func TestCompactStopsAndSpares(t *testing.T) {
	e := memEnv(t)
	e.cfg.MinCompactionLag = time.Hour
	l := e.open()
	defer l.Close(true)
	fill(t, l, 100)
	store(t, l)
	opts := CompactOptions{Now: time.Now(), UpTo: l.End()}
	stats, err := l.Compact(context.Background(), opts)
	require.NoError(t, err)
	require.False(t, stats.Cleaned, "too young")
	opts.Now = opts.Now.Add(2 * time.Hour)
	opts.UpTo = 0
	stats, err = l.Compact(context.Background(), opts)
	require.NoError(t, err)
	require.False(t, stats.Cleaned, "nothing below the watermark")
	opts.UpTo = l.End()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = l.Compact(ctx, opts)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, upTo(200), offsets(t, readAll(t, l, 0, 1000)))
	stats, err = l.Compact(context.Background(), opts)
	require.NoError(t, err)
	require.True(t, stats.Cleaned)
	require.Less(t, stats.BytesOut, stats.BytesIn)
	opts.UpTo = l.End()
	stats, err = l.Compact(context.Background(), opts)
	require.NoError(t, err)
	require.False(t, stats.Cleaned, "not dirty enough")
}

// TestCompactComesTooLate closes and trims logs in the midst of a compaction. A
// soak that deleted topics under load had "file was removed" logged as a failed
// pass, where a cleaner has nothing to complain of.
func TestCompactComesTooLate(t *testing.T) {
	for _, c := range []struct {
		befalls func(l *Log) error
		want    error
	}{
		{func(l *Log) error { return l.Close(true) }, ErrClosed},
		{func(l *Log) error { _, err := l.TrimTo(l.End()); return err }, ErrStale},
	} {
		e := memEnv(t)
		l := e.open()
		fill(t, l, 100)
		store(t, l)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// The throttle asks for the context first once the segments are chosen.
		_, err := l.Compact(&befallen{Context: ctx, do: sync.OnceFunc(func() { require.NoError(t, c.befalls(l)) })},
			CompactOptions{Now: time.Now(), UpTo: l.End(), Force: true})
		require.ErrorIs(t, err, c.want)
		require.NoError(t, l.Failed())
		if !errors.Is(c.want, ErrClosed) {
			require.NoError(t, l.Close(true))
		}
	}
}

// befallen is a context that does something when it is asked for its error.
type befallen struct {
	context.Context
	do func()
}

func (b *befallen) Err() error { b.do(); return b.Context.Err() }

// TestCompactCrash opens what a power loss at each file operation of a
// compaction leaves: the latest value of each key is there, and nothing that
// is newer than it is missing.
func TestCompactCrash(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 4))
		mem := memFS(t)
		c := &crasher{mem: mem, rng: rng}
		e := newEnv(t, errorfs.Wrap(mem, errorfs.InjectorFunc(c.hook)), "/data/topic/0")
		e.cfg.MinCleanableRatio = -1
		l := e.open()
		for round := range 2 {
			for range 40 {
				require.NoError(t, l.Append([]record.Batch{keyed(l.End(), 0,
					fmt.Sprint("key-", rng.IntN(9)), fmt.Sprint("value ", rng.Uint64()), fmt.Sprint("key-", rng.IntN(9)), "some value")}))
			}
			store(t, l)
			all := records(t, l)
			want := latest(all, l.End())
			known := map[keptRecord]bool{}
			for _, r := range all {
				known[r] = true
			}
			clones, ops, _ := c.during(l, func() {
				_, err := l.Compact(context.Background(), CompactOptions{Now: time.Now(), UpTo: l.End()})
				require.NoError(t, err)
			})
			require.Greater(t, len(clones), 10)
			for i, clone := range clones {
				what := fmt.Sprintf("seed %d, round %d, before operation %d: %s", seed, round, i, ops[i])
				ce := newEnv(t, clone, "/data/topic/0")
				cl, err := Open(ce.options())
				require.NoError(t, err, what)
				require.Equal(t, l.End(), cl.End(), what)
				got := records(t, cl)
				require.Equal(t, want, latest(got, cl.End()), what)
				for _, r := range got {
					require.True(t, known[r], what)
				}
				names, err := clone.List("/data/topic/0")
				require.NoError(t, err)
				for _, n := range names {
					require.NotContains(t, n, swapSuffix, what)
					require.NotContains(t, n, cleanedSuffix, what)
				}
				require.NoError(t, cl.Close(true))
			}
		}
		require.NoError(t, l.Close(true))
		again := newEnv(t, mem.CrashClone(vfs.CrashCloneCfg{}), "/data/topic/0").open()
		require.NoError(t, again.Close(true))
	}
}

func TestCompactThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memEnv(t)
		e.cfg.SegmentBytes = 4 << 20
		l := e.open()
		big := make([]byte, 1<<20)
		for i := range 10 {
			require.NoError(t, l.Append([]record.Batch{keyed(l.End(), 0, fmt.Sprint(i%2), string(big))}))
		}
		store(t, l)
		began := time.Now()
		stats, err := l.Compact(context.Background(), CompactOptions{Now: began, UpTo: l.End(), BytesPerSecond: 1 << 20, Force: true})
		require.NoError(t, err)
		require.True(t, stats.Cleaned)
		// Segments are read twice, once for the keys, and what is kept is written;
		// one second's worth passes at once.
		want := time.Duration(2*stats.BytesIn+stats.BytesOut-throttleBurst) * time.Second >> 20
		require.InDelta(t, want.Seconds(), time.Since(began).Seconds(), 0.1)
		require.NoError(t, l.Close(true))
		e.flusher.Close()
	})
}
