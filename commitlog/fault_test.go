package commitlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// fault fails operations on files with a suffix while it is on.
type fault struct {
	on     atomic.Bool
	kinds  []errorfs.OpKind
	suffix string
	err    error
	after  atomic.Int64 // operations that still succeed
	hits   atomic.Int64
}

func (f *fault) inject(op errorfs.Op) error {
	if !f.on.Load() || !strings.HasSuffix(strings.TrimSuffix(op.Path, segment.TempSuffix), f.suffix) {
		return nil
	}
	for _, k := range f.kinds {
		if k == op.Kind && f.after.Add(-1) < 0 {
			f.hits.Add(1)
			return f.err
		}
	}
	return nil
}

func faultEnv(t *testing.T, f *fault) *env {
	return newEnv(t, errorfs.Wrap(memFS(t), errorfs.InjectorFunc(f.inject)), "/data/topic/0")
}

// shortFS writes half of what it is given before the disk is full.
type shortFS struct {
	vfs.FS
	full *atomic.Bool
}

type shortFile struct {
	vfs.File
	full *atomic.Bool
}

func (s shortFS) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return shortFile{f, s.full}, nil
}

func (s shortFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return s.wrap(s.FS.Create(name, c))
}

func (s shortFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return s.wrap(s.FS.OpenReadWrite(name, c, o...))
}

func (f shortFile) WriteAt(p []byte, off int64) (int, error) {
	if !f.full.Load() {
		return f.File.WriteAt(p, off)
	}
	n, err := f.File.WriteAt(p[:len(p)/2], off)
	return n, errors.Join(err, syscall.ENOSPC)
}

func TestNoSpaceLeavesTheLogAsItWas(t *testing.T) {
	var full atomic.Bool
	e := newEnv(t, shortFS{memFS(t), &full}, "/data/topic/0")
	l := e.open()
	fill(t, l, 30)
	require.NoError(t, l.Append([]record.Batch{idempotent(60, 1, 0, 0, false, 2)}))
	for range 3 {
		full.Store(true)
		end, infos, size := l.End(), l.Segments(), l.Size()
		err := l.Append([]record.Batch{idempotent(end, 1, 0, 2, false, 2), idempotent(end+2, 1, 0, 4, false, 2)})
		require.ErrorIs(t, err, ErrNoSpace)
		require.Equal(t, end, l.End())
		require.Equal(t, infos, l.Segments())
		require.Equal(t, size, l.Size())
		require.NoError(t, l.Failed())
		require.EqualValues(t, 1, l.Producers()[0].LastSequence)
		require.Equal(t, upTo(end), offsets(t, readAll(t, l, 0, 1000)))
		st, err := e.fs.Stat(l.place.Path(infos[len(infos)-1].Base, segment.LogSuffix))
		require.NoError(t, err)
		require.Equal(t, infos[len(infos)-1].Bytes, st.Size())
		full.Store(false)
		fill(t, l, 3)
	}
	end := l.End()
	require.NoError(t, l.Close(false))
	l = e.open()
	require.Equal(t, upTo(end), offsets(t, readAll(t, l, 0, 1000)))
	require.NoError(t, l.Close(true))
	require.Empty(t, e.fatal)
}

// A gather that needs several segments is undone as a whole.
func TestNoSpaceInTheSecondSegmentOfAnAppend(t *testing.T) {
	f := &fault{kinds: []errorfs.OpKind{errorfs.OpFileWriteAt}, suffix: ".log", err: syscall.ENOSPC}
	e := faultEnv(t, f)
	e.cfg.Lazy = true
	l := e.open()
	fill(t, l, 5)
	raw := readAll(t, l, 0, 1<<20)
	var batches []record.Batch
	for i := range record.Offset(60) {
		batches = append(batches, batch(10+i*2, 5, 0, "value-one", "value-two"))
	}
	f.after.Store(40)
	f.on.Store(true)
	require.ErrorIs(t, l.Append(batches), ErrNoSpace)
	require.GreaterOrEqual(t, f.hits.Load(), int64(1))
	f.on.Store(false)
	require.NoError(t, l.Failed())
	require.EqualValues(t, 10, l.End())
	require.Equal(t, raw, readAll(t, l, 0, 1<<20))
	require.EqualValues(t, 0, l.LastEpoch())
	require.NoError(t, l.Append(batches))
	want := readAll(t, l, 0, 1<<20)
	require.NoError(t, l.Close(false))
	l = e.open()
	require.Equal(t, want, readAll(t, l, 0, 1<<20))
	require.NoError(t, l.Close(true))
}

// With no room for checkpoints and indexes the log goes on, trims, and makes
// up for it later.
func TestNoSpaceForDerivedFiles(t *testing.T) {
	for _, suffix := range []string{".snapshot", ".index", ".timeindex", ".checkpoint"} {
		t.Run(suffix, func(t *testing.T) {
			f := &fault{kinds: []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpCreate}, suffix: suffix, err: syscall.ENOSPC}
			e := faultEnv(t, f)
			l := e.open()
			fill(t, l, 20)
			f.on.Store(true)
			fill(t, l, 80)
			flush(t, l)
			require.EqualValues(t, 200, l.FlushedEnd())
			require.Equal(t, upTo(200), offsets(t, readAll(t, l, 0, 1000)))
			end := l.Segments()[1].End
			freed, err := l.TrimTo(end)
			require.NoError(t, err)
			require.Positive(t, freed)
			require.Positive(t, f.hits.Load())
			require.NoError(t, l.Failed())
			require.NoError(t, l.Close(true))
			f.on.Store(false)
			l = e.open()
			require.Equal(t, end, l.Start())
			require.EqualValues(t, 200, l.End())
			require.Len(t, offsets(t, readAll(t, l, l.Start(), 1000)), int(200-end))
			require.NoError(t, l.Close(true))
		})
	}
}

func TestFailedSyncPoisons(t *testing.T) {
	f := &fault{kinds: []errorfs.OpKind{errorfs.OpFileSyncData}, suffix: ".log", err: syscall.EIO}
	e := faultEnv(t, f)
	l := e.open()
	fill(t, l, 3)
	flush(t, l)
	f.on.Store(true)
	fill(t, l, 1)
	err := l.Flush(context.Background())
	require.ErrorIs(t, err, ErrFailed)
	require.ErrorIs(t, err, syscall.EIO)
	require.EqualValues(t, 6, l.FlushedEnd())
	// Never again, even though the disk would now say yes.
	f.on.Store(false)
	hits := f.hits.Load()
	require.EqualValues(t, 1, hits)
	require.ErrorIs(t, l.Append([]record.Batch{batch(l.End(), 0, 0, "x")}), ErrFailed)
	require.ErrorIs(t, l.Flush(context.Background()), ErrFailed)
	_, err = l.TrimTo(2)
	require.ErrorIs(t, err, ErrFailed)
	require.ErrorIs(t, l.TruncateTo(1), ErrFailed)
	require.ErrorIs(t, l.Failed(), ErrFailed)
	require.EqualValues(t, 6, l.FlushedEnd())
	require.Len(t, offsets(t, readAll(t, l, 0, 1000)), 8, "what is there can be read")
	require.NoError(t, l.Close(true))
	e.mu.Lock()
	defer e.mu.Unlock()
	require.Len(t, e.fatal, 1)
}

func TestFailedWriteIsFinal(t *testing.T) {
	f := &fault{kinds: []errorfs.OpKind{errorfs.OpFileWriteAt}, suffix: ".log", err: syscall.EIO}
	e := faultEnv(t, f)
	l := e.open()
	fill(t, l, 3)
	f.on.Store(true)
	require.ErrorIs(t, l.Append([]record.Batch{batch(6, 0, 0, "x")}), ErrFailed)
	f.on.Store(false)
	require.ErrorIs(t, l.Append([]record.Batch{batch(6, 0, 0, "x")}), ErrFailed)
	require.NoError(t, l.Close(false))
	l = e.open()
	require.EqualValues(t, 6, l.End())
	require.NoError(t, l.Close(true))
	require.Len(t, e.fatal, 1)
}

// damage overwrites a byte of a file in the middle.
func damage(t *testing.T, fs vfs.FS, name string, at int64) {
	b, err := segment.ReadFile(fs, name, 1<<30)
	require.NoError(t, err)
	if at < 0 {
		at = int64(len(b)) / 2
	}
	b[at] ^= 0x55
	require.NoError(t, segment.WriteFile(fs, name, b, true))
}

func TestDamagedFilesAreMadeAnew(t *testing.T) {
	e := memEnv(t)
	l := e.open()
	fill(t, l, 100)
	require.NoError(t, l.Append([]record.Batch{idempotent(200, 5, 0, 0, false, 2)}))
	want, producers := readAll(t, l, 0, 700), l.Producers()
	require.NoError(t, l.Close(true))
	names, err := e.fs.List(e.dir)
	require.NoError(t, err)
	damaged := 0
	for _, n := range names {
		if path.Ext(n) == ".log" {
			continue
		}
		for _, gone := range []bool{false, true} {
			if gone {
				require.NoError(t, e.fs.Remove(e.dir+"/"+n))
			} else {
				damage(t, e.fs, e.dir+"/"+n, -1)
			}
			damaged++
			l := e.open()
			require.Equal(t, want, readAll(t, l, 0, 700), n)
			require.Equal(t, producers, l.Producers(), n)
			_, _, _, ok, err := l.LookupTime(55)
			require.NoError(t, err)
			require.True(t, ok)
			require.NoError(t, l.Close(true))
		}
	}
	require.Greater(t, damaged, 20)
}

func TestTornTails(t *testing.T) {
	e := memEnv(t)
	e.cfg.SegmentBytes = 1 << 20
	l := e.open()
	fill(t, l, 5)
	flush(t, l)
	require.NoError(t, l.Close(true))
	l = e.open()
	fill(t, l, 5)
	require.NoError(t, l.Close(false))
	name := l.place.Path(0, segment.LogSuffix)
	whole, err := segment.ReadFile(e.fs, name, 1<<20)
	require.NoError(t, err)
	size := int64(len(batch(0, 0, 0, "value-one", "value-two").Raw))
	for cut := 5 * size; cut <= int64(len(whole)); cut++ {
		for _, junk := range []string{"", "x", strings.Repeat("\x07", 300)} {
			require.NoError(t, segment.WriteFile(e.fs, name, append(bytes.Clone(whole[:cut]), junk...), true))
			l := e.open()
			n := record.Offset(cut / size * 2)
			require.Equal(t, n, l.End(), "cut at %d of %d, batches of %d, junk %q", cut, len(whole), size, junk)
			require.Equal(t, upTo(n), offsets(t, readAll(t, l, 0, 1000)))
			require.NoError(t, l.Close(false))
		}
	}
	// What was durable must be there.
	require.NoError(t, segment.WriteFile(e.fs, name, bytes.Clone(whole[:size*3]), true))
	_, err = Open(e.options())
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestUntrustedTailIsReadBack(t *testing.T) {
	e := memEnv(t)
	e.fs, e.dir = vfs.Default, t.TempDir()+"/topic/0"
	l := e.open()
	fill(t, l, 50)
	require.NoError(t, l.Close(false))
	o := e.options()
	o.Untrusted = true
	l, err := Open(o)
	require.NoError(t, err)
	require.Equal(t, upTo(100), offsets(t, readAll(t, l, 0, 1000)))
	require.NoError(t, l.Close(true))
}

// A lazy log is synced when its checkpoint is due, by age or by bytes.
func TestLazyFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memEnv(t)
		e.cfg.Lazy = true
		l := e.open()
		fill(t, l, 3)
		time.Sleep(29 * time.Second)
		synctest.Wait()
		require.Zero(t, l.FlushedEnd())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 6, l.FlushedEnd())
		e.cfg.SegmentBytes = 1 << 30
		l.SetConfig(e.cfg)
		big := batch(6, 0, 0, strings.Repeat("x", 1<<20))
		for range 127 {
			big.Stamp(l.End(), 0)
			require.NoError(t, l.Append([]record.Batch{big}))
		}
		synctest.Wait()
		require.EqualValues(t, 6, l.FlushedEnd())
		big.Stamp(l.End(), 0)
		require.NoError(t, l.Append([]record.Batch{big}))
		synctest.Wait()
		require.Equal(t, l.End(), l.FlushedEnd())
		require.NoError(t, l.Close(false))
		e.flusher.Close()
	})
}

func TestCloseAnswersWaiters(t *testing.T) {
	e := memEnv(t)
	e.cfg.Lazy = true
	l := e.open()
	fill(t, l, 1)
	require.NoError(t, l.Close(false))
	require.ErrorIs(t, l.Flush(context.Background()), ErrClosed)
	require.ErrorIs(t, l.Close(false), ErrClosed)
	require.ErrorIs(t, l.Append([]record.Batch{batch(2, 0, 0, "x")}), ErrClosed)
	_, err := l.Read(0, 2, 100, true)
	require.ErrorIs(t, err, ErrClosed)
}

// Closing an idle log writes nothing, whether it was ever used or not.
func TestCloseOfAnIdleLogWritesNothing(t *testing.T) {
	var writes atomic.Int64
	count := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose {
			writes.Add(1)
		}
		return nil
	})
	e := newEnv(t, errorfs.Wrap(memFS(t), count), "/data/topic/0")
	l := e.open()
	before := writes.Load()
	require.NoError(t, l.Close(true))
	require.Equal(t, before, writes.Load())
	l = e.open()
	fill(t, l, 3)
	require.NoError(t, l.Close(true))
	before = writes.Load()
	for range 3 {
		l = e.open()
		require.EqualValues(t, 6, l.FlushedEnd())
		require.NoError(t, l.Close(true))
	}
	require.Equal(t, before, writes.Load())
	l = e.open()
	require.NoError(t, l.AssignEpoch(5, 6))
	require.NoError(t, l.Close(true))
	l = e.open()
	require.EqualValues(t, 5, l.LastEpoch())
	require.NoError(t, l.Close(true))
}

// noFiles refuses to open files now and then, as a process does that has as many as it
// may.
type noFiles struct {
	on   atomic.Bool
	mu   sync.Mutex
	rand *rand.Rand
	hits int
}

func (f *noFiles) inject(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpOpen, errorfs.OpOpenDir:
	default:
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.on.Load() || f.rand.IntN(3) == 0 {
		return nil
	}
	f.hits++
	return &fs.PathError{Op: "open", Path: op.Path, Err: syscall.EMFILE}
}

// Whatever finds no descriptor fails by itself, and changes nothing. What it put off is
// made up for once there are descriptors again.
func TestNoFilesIsNoFailure(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := &noFiles{rand: rand.New(rand.NewPCG(seed, 1))}
			dir := t.TempDir() + "/topic/0"
			require.NoError(t, os.MkdirAll(dir, 0o755))
			e := newEnv(t, errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(f.inject)), dir)
			e.fds = segment.NewFDCache(2)
			random := rand.New(rand.NewPCG(seed, 2))
			l := e.open()
			var want []record.Offset
			refused := map[string]int{}
			try := func(what string, err error) bool {
				if err != nil {
					require.ErrorIs(t, err, ErrNoFiles, what)
					refused[what]++
				}
				require.NoError(t, l.Failed(), what)
				return err == nil
			}
			for step := range 120 {
				f.on.Store(step%30 != 29)
				end := l.End()
				switch n := random.IntN(20); {
				case n < 12:
					// Single records of which one or two fill a segment, several at a time.
					var batches []record.Batch
					for i := range record.Offset(1 + random.IntN(4)) {
						batches = append(batches, batch(end+i, 0, int64(step), strings.Repeat("x", random.IntN(1500))))
					}
					if try("append", l.Append(batches)) {
						for i := range batches {
							want = append(want, batches[i].BaseOffset)
						}
					}
				case n < 14:
					_, err := l.Roll()
					try("roll", err)
				case n < 16:
					l.flusher.request(l, true)
				case n < 18 && len(want) > 0:
					to := want[random.IntN(len(want))]
					if try("truncate", l.TruncateTo(to)) {
						want = slices.DeleteFunc(want, func(o record.Offset) bool { return o >= to })
						require.Equal(t, to, l.End())
					}
				case n < 19:
					_, err := l.TrimTo(l.Start() + record.Offset(random.IntN(20)))
					try("trim", err)
					start := l.Start()
					want = slices.DeleteFunc(want, func(o record.Offset) bool { return o < start })
				}
				if f.on.Load() {
					continue
				}
				require.NoError(t, l.Flush(t.Context()))
				require.Equal(t, l.End(), l.FlushedEnd())
				if random.IntN(2) == 0 {
					require.NoError(t, l.Close(random.IntN(2) == 0))
					l = e.open()
				}
				got := offsets(t, readAll(t, l, l.Start(), 1<<20))
				require.True(t, slices.Equal(want, got), "want %v, got %v", want, got)
			}
			require.Positive(t, f.hits)
			require.NotEmpty(t, refused)
			require.Empty(t, e.fatal)
			f.on.Store(false)
			require.NoError(t, l.Close(true))
		})
	}
}

// A flush waits for a descriptor and does not tell that it is done before.
func TestFlushWaitsForFiles(t *testing.T) {
	f := &fault{kinds: []errorfs.OpKind{errorfs.OpOpenDir}, err: syscall.ENFILE}
	e := faultEnv(t, f)
	l := e.open()
	f.on.Store(true)
	fill(t, l, 1)
	short, cancel := context.WithTimeout(t.Context(), 3*retryAfter)
	defer cancel()
	require.ErrorIs(t, l.Flush(short), context.DeadlineExceeded)
	require.GreaterOrEqual(t, f.hits.Load(), int64(2), "it was tried again")
	require.Zero(t, l.FlushedEnd())
	f.on.Store(false)
	require.NoError(t, l.Flush(t.Context()))
	require.EqualValues(t, 2, l.FlushedEnd())
	require.NoError(t, l.Close(true))
	require.Empty(t, e.fatal)
}
