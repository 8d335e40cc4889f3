package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func closeCache(t *testing.T, c *Cache) {
	t.Helper()
	require.NoError(t, c.Close())
}

func keyOf(i int) Key { return Key{Object: [16]byte{byte(i), byte(i >> 8)}, Chunk: uint32(i)} }

// content is what the chunk of a key holds in all tests.
func content(k Key, size int) []byte {
	r := rand.New(rand.NewPCG(uint64(k.Object[0]), uint64(k.Chunk)))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func mustOpen(t *testing.T, o Options) *Cache {
	t.Helper()
	o.Poison = true
	o.BufferBytes = 1000 // some chunks use it, most do not
	c, err := Open(o)
	require.NoError(t, err)
	return c
}

// complete fills a buffer of the cache, as its users do.
func complete(c *Cache, f *Fill, k Key, size int) {
	b := c.Buffer(size)
	copy(b, content(k, size))
	f.Complete(b, crcOf(b))
}

func crcOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func put(t *testing.T, c *Cache, k Key, size int) {
	t.Helper()
	h, f, owner, err := c.Acquire(t.Context(), k, true)
	require.NoError(t, err)
	require.Nil(t, h)
	require.True(t, owner)
	complete(c, f, k, size)
	f.Leave()
}

// get returns a copy of a cached chunk, nil if it is not cached.
func get(t *testing.T, c *Cache, k Key) []byte {
	t.Helper()
	h, f, owner, err := c.Acquire(t.Context(), k, true)
	require.NoError(t, err)
	if h == nil {
		require.True(t, owner)
		f.Fail(errors.New("not wanted"))
		f.Leave()
		return nil
	}
	defer h.Release()
	return bytes.Clone(h.Bytes())
}

func filesIn(t *testing.T, dir string) (paths []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, p)
		}
		return err
	}))
	return paths
}

func TestSingleFlightOutlivesItsFirstRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Options{MemoryBytes: 1 << 20})
		defer closeCache(t, c)
		k := keyOf(1)
		h, fill, owner, err := c.Acquire(t.Context(), k, true)
		require.NoError(t, err)
		require.Nil(t, h)
		require.True(t, owner)

		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() {
			_, err := fill.Wait(ctx, true)
			first <- err
		}()
		results := make(chan []byte, 10)
		for range 10 {
			go func() {
				h, f, owner, err := c.Acquire(t.Context(), k, true)
				if h != nil || owner || err != nil {
					panic("reserved twice")
				}
				if h, err = f.Wait(t.Context(), true); err != nil {
					panic(err)
				}
				results <- bytes.Clone(h.Bytes())
				h.Release()
			}()
		}
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-first, context.Canceled)
		fill.Complete(content(k, 1000), crcOf(content(k, 1000)))
		for range 10 {
			require.Equal(t, content(k, 1000), <-results)
		}
		require.Equal(t, content(k, 1000), get(t, c, k))
		s := c.Stats()
		require.EqualValues(t, 1, s.Misses)
		require.EqualValues(t, 10, s.Joined)
		require.EqualValues(t, 1, s.Fills)
	})
}

func TestFailedFillIsForgotten(t *testing.T) {
	c := mustOpen(t, Options{MemoryBytes: 1 << 20})
	defer closeCache(t, c)
	_, fill, _, err := c.Acquire(t.Context(), keyOf(1), true)
	require.NoError(t, err)
	boom := errors.New("boom")
	fill.Fail(boom)
	_, err = fill.Wait(t.Context(), true)
	require.ErrorIs(t, err, boom)
	require.False(t, c.Peek(keyOf(1)))
	put(t, c, keyOf(1), 10)
	require.True(t, c.Peek(keyOf(1)))
}

func TestPinnedIsNotEvicted(t *testing.T) {
	c := mustOpen(t, Options{MemoryBytes: 1000})
	defer closeCache(t, c)
	put(t, c, keyOf(0), 600)
	h, _, _, err := c.Acquire(t.Context(), keyOf(0), true)
	require.NoError(t, err)
	for i := 1; i < 20; i++ {
		put(t, c, keyOf(i), 600)
	}
	require.Equal(t, content(keyOf(0), 600), h.Bytes())
	require.True(t, c.Peek(keyOf(0)))
	h.Release()
	h.Release()
	for i := 20; i < 30; i++ {
		put(t, c, keyOf(i), 600)
	}
	require.LessOrEqual(t, c.Stats().MemoryBytes, int64(1000))
	require.False(t, c.Peek(keyOf(0)))
}

func TestLargerThanMemory(t *testing.T) {
	c := mustOpen(t, Options{MemoryBytes: 100})
	defer closeCache(t, c)
	_, fill, _, err := c.Acquire(t.Context(), keyOf(0), true)
	require.NoError(t, err)
	fill.Complete(content(keyOf(0), 200), crcOf(content(keyOf(0), 200)))
	h, err := fill.Wait(t.Context(), true)
	require.NoError(t, err)
	require.Equal(t, content(keyOf(0), 200), h.Bytes())
	require.True(t, c.Peek(keyOf(0)), "pinned")
	h.Release()
	require.False(t, c.Peek(keyOf(0)))
	require.Zero(t, c.Stats().MemoryBytes)
}

// TestNewestIsNotEvictedUnseen: once, chunks that were read ahead while all of
// memory was pinned left it the moment they came, and were fetched again.
func TestNewestIsNotEvictedUnseen(t *testing.T) {
	c := mustOpen(t, Options{MemoryBytes: 1000})
	defer closeCache(t, c)
	var handles []*Handle
	for i := range 5 {
		_, f, owner, err := c.Acquire(t.Context(), keyOf(i), false)
		require.NoError(t, err)
		require.True(t, owner)
		f.Complete(content(keyOf(i), 900), crcOf(content(keyOf(i), 900)))
		h, err := f.Wait(t.Context(), false)
		require.NoError(t, err)
		handles = append(handles, h)
	}
	for i, h := range handles {
		require.True(t, c.Peek(keyOf(i)))
		h.Release()
	}
	require.EqualValues(t, 900, c.Stats().MemoryBytes)
}

// TestMemoryHoldsAScan: what fits into a memory that is larger than the default's
// spare comes from there the second time, though there is a disk.
func TestMemoryHoldsAScan(t *testing.T) {
	const chunks, size = 100, 1 << 20
	c := mustOpen(t, Options{MemoryBytes: 2 * chunks * size, DiskBytes: 1 << 30, Dir: t.TempDir()})
	defer closeCache(t, c)
	for i := range chunks {
		_, f, owner, err := c.Acquire(t.Context(), keyOf(i), true)
		require.NoError(t, err)
		require.True(t, owner)
		f.Complete(make([]byte, size), 0)
		h, err := f.Wait(t.Context(), true)
		require.NoError(t, err)
		h.Release()
	}
	for i := range chunks {
		h, f, _, err := c.Acquire(t.Context(), keyOf(i), true)
		require.NoError(t, err)
		require.Nil(t, f, "chunk %d", i)
		h.Release()
	}
	s := c.Stats()
	require.EqualValues(t, chunks, s.MemoryHits)
	require.Zero(t, s.DiskHits)
	require.Zero(t, s.MemoryEvictions)
	require.Zero(t, s.QueuedBytes+s.DiskWriteBytes)
}

// TestBufferThatBecameFree: who waited while others mapped buffers takes one that
// was given back meanwhile.
func TestBufferThatBecameFree(t *testing.T) {
	c := mustOpen(t, Options{MemoryBytes: 1 << 20})
	defer closeCache(t, c)
	first, second := c.Buffer(1000), c.Buffer(1000)
	mapped := c.Stats().Mapped
	c.Recycle(first)
	c.Recycle(c.mapBuffer())
	require.Equal(t, mapped, c.Stats().Mapped)
	c.Recycle(second)
}

func TestDiskServesWhatMemoryEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Options{MemoryBytes: 1000, DiskBytes: 100_000, Dir: t.TempDir()})
		defer closeCache(t, c)
		for i := range 21 {
			put(t, c, keyOf(i), 900)
		}
		synctest.Wait()
		require.EqualValues(t, 20, c.Stats().DiskWrites, "the last is in memory")
		for i := range 20 {
			require.Equal(t, content(keyOf(i), 900), get(t, c, keyOf(i)))
		}
		require.EqualValues(t, 20, c.Stats().DiskHits)
		h, _, _, err := c.Acquire(t.Context(), keyOf(3), true)
		require.NoError(t, err)
		require.NoError(t, c.DropObject(keyOf(3).Object))
		require.Len(t, filesIn(t, c.opts.Dir), 20, "the last one was written too, when others were loaded")
		require.Equal(t, content(keyOf(3), 900), h.Bytes(), "a dropped chunk stays readable while pinned")
		h.Release()
		require.Nil(t, get(t, c, keyOf(3)))
		require.EqualValues(t, 21, c.Stats().DiskWrites, "what is on disk is not written again")
	})
}

// TestOneLoadForAll: readers who want a chunk that is on disk alone share a read.
func TestOneLoadForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Options{DiskBytes: 100_000, Dir: t.TempDir()})
		defer closeCache(t, c)
		put(t, c, keyOf(1), 900)
		synctest.Wait()
		reads, goOn := 0, make(chan struct{})
		c.open = func(p string, flag int) (*os.File, error) {
			reads++
			<-goOn
			return openFile(p, flag)
		}
		got := make(chan *Handle, 5)
		for range cap(got) {
			go func() {
				h, _, _, err := c.Acquire(t.Context(), keyOf(1), true)
				if err != nil {
					panic(err)
				}
				got <- h
			}()
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error)
		go func() {
			_, _, _, err := c.Acquire(ctx, keyOf(1), true)
			gaveUp <- err
		}()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gaveUp, context.Canceled)
		close(goOn)
		synctest.Wait()
		for range cap(got) {
			h := <-got
			require.Equal(t, content(keyOf(1), 900), h.Bytes())
			defer h.Release()
		}
		require.Equal(t, 1, reads)
		require.EqualValues(t, 900, c.Stats().MemoryBytes, "pinned")
	})
}

// TestDroppedWhileItIsLoaded: the reader gets it from the bucket instead.
func TestDroppedWhileItIsLoaded(t *testing.T) {
	c := mustOpen(t, Options{DiskBytes: 100_000, Dir: t.TempDir()})
	put(t, c, keyOf(1), 900)
	for c.Stats().DiskWrites == 0 {
		runtime.Gosched()
	}
	c.open = func(p string, flag int) (*os.File, error) {
		f, err := openFile(p, flag)
		return f, errors.Join(err, c.Drop(keyOf(1)))
	}
	require.Nil(t, get(t, c, keyOf(1)))
	require.Empty(t, filesIn(t, c.opts.Dir))
	closeCache(t, c)
	require.Zero(t, c.Stats().Mapped)
	require.Zero(t, c.Stats().CorruptFiles)
}

// TestWithoutDirectIO: a file system may refuse O_DIRECT, and may do so after it
// has created the file.
func TestWithoutDirectIO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Options{DiskBytes: 100_000, Dir: t.TempDir()})
		refusals := 0
		c.open = func(p string, flag int) (*os.File, error) {
			f, err := openFile(p, flag&^openDirect)
			if openDirect != 0 && flag&openDirect != 0 && err == nil {
				refusals++
				return nil, errors.Join(&fs.PathError{Op: "open", Path: p, Err: syscall.EINVAL}, f.Close())
			}
			return f, err
		}
		put(t, c, keyOf(1), 900)
		synctest.Wait()
		require.Equal(t, content(keyOf(1), 900), get(t, c, keyOf(1)))
		s := c.Stats()
		require.EqualValues(t, 1, s.DiskWrites)
		require.EqualValues(t, 1, s.DiskHits)
		if openDirect != 0 {
			require.Equal(t, 2, refusals, "the buffers of the pool go past the page cache")
		}
		closeCache(t, c)
	})
}

func TestRestartKeepsWhatIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := Options{DiskBytes: 100_000, Dir: t.TempDir()}
		c := mustOpen(t, opts)
		for i := range 40 {
			put(t, c, keyOf(i), 900)
		}
		synctest.Wait()
		require.NoError(t, c.Close())

		// What a crash or a bad disk can leave behind.
		damage := map[int]func(path string){
			3:  func(p string) { must(t, os.Truncate(p, 0)) },
			5:  func(p string) { must(t, os.Truncate(p, 300)) },
			7:  func(p string) { flip(t, p, 70) },
			9:  func(p string) { flip(t, p, 4096+33) },
			11: func(p string) { must(t, os.WriteFile(p, make([]byte, 8192), 0o600)) },
			13: func(p string) { must(t, os.Remove(p)) },
			15: func(p string) { must(t, os.Truncate(p, 4096)) },
		}
		for _, p := range filesIn(t, opts.Dir) {
			k, _, _, ok := parseFileName(filepath.Base(p))
			require.True(t, ok)
			if f := damage[int(k.Chunk)]; f != nil {
				f(p)
			}
		}
		half := filepath.Join(opts.Dir, fileName(keyOf(99), 1, 900))
		must(t, os.MkdirAll(filepath.Dir(half), 0o700))
		must(t, os.WriteFile(half, []byte("half"), 0o600))
		former := strings.TrimSuffix(half, "-00000384") // of version 1
		must(t, os.WriteFile(former, make([]byte, 964), 0o600))
		must(t, os.WriteFile(former+tempSuffix, make([]byte, 964), 0o600))

		c = mustOpen(t, opts)
		defer closeCache(t, c)
		require.NoFileExists(t, half)
		require.NoFileExists(t, former)
		require.NoFileExists(t, former+tempSuffix)
		for round := range 2 {
			for i := range 40 {
				got := get(t, c, keyOf(i))
				if damage[i] != nil {
					require.Nil(t, got, "chunk %d", i)
				} else {
					require.Equal(t, content(keyOf(i), 900), got, "chunk %d in round %d", i, round)
				}
			}
		}
		require.EqualValues(t, 7, c.Stats().CorruptFiles, "all but the missing one, and half a file")
		put(t, c, keyOf(7), 900)
		synctest.Wait()
		require.Len(t, filesIn(t, opts.Dir), 40-7+1)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	require.NoError(t, err)
}

func flip(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	b[at] ^= 4
	must(t, os.WriteFile(path, b, 0o600))
}

// TestEveryBitOfAFileIsChecked flips each bit of the chunk and of the trailer.
func TestEveryBitOfAFileIsChecked(t *testing.T) {
	k := keyOf(5)
	data := content(k, 50)
	check := func(image []byte, k Key, size int64) error {
		crc, err := checkImage(image, k, size, false)
		if err == nil {
			require.Equal(t, crcOf(data), crc)
		}
		return err
	}
	whole := imageOf(k, data, crcOf(data))
	require.Len(t, whole, 8192)
	require.NoError(t, check(whole, k, 50))
	for at := range whole {
		if at >= 50 && at < 4096 || at >= 4096+trailerSize {
			require.Zero(t, whole[at])
			continue
		}
		for bit := range 8 {
			whole[at] ^= 1 << bit
			require.ErrorIs(t, check(whole, k, 50), errDamaged, "bit %d of byte %d", bit, at)
			whole[at] ^= 1 << bit
		}
	}
	require.ErrorIs(t, check(whole, keyOf(6), 50), errDamaged)
	require.ErrorIs(t, check(whole, k, 51), errDamaged)
	require.ErrorIs(t, check(whole[:4096], k, 50), errDamaged)
	whole[7] ^= 1
	_, err := checkImage(whole, k, 50, true)
	require.NoError(t, err, "what this process has written is read on trust")
}

func TestSmallerDiskAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := Options{DiskBytes: 100_000, Dir: t.TempDir()}
		c := mustOpen(t, opts)
		for i := range 40 {
			put(t, c, keyOf(i), 900)
		}
		synctest.Wait()
		must(t, c.Close())
		opts.DiskBytes = 9000
		c = mustOpen(t, opts)
		defer closeCache(t, c)
		require.Len(t, filesIn(t, opts.Dir), 10)
		require.Nil(t, get(t, c, keyOf(0)))
		require.NotNil(t, get(t, c, keyOf(39)), "the newest stay")
	})
}

func TestFullDiskHurtsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Options{MemoryBytes: 1000, DiskBytes: 100_000, Dir: t.TempDir(), DiskRetry: time.Minute})
		defer closeCache(t, c)
		for i := range 5 {
			put(t, c, keyOf(i), 900)
		}
		synctest.Wait()
		require.EqualValues(t, 4, c.Stats().DiskWrites)
		var full atomic.Bool
		full.Store(true)
		c.mu.Lock()
		c.open = func(p string, flag int) (*os.File, error) {
			if full.Load() && flag&os.O_CREATE != 0 {
				return nil, &fs.PathError{Op: "open", Path: p, Err: syscall.ENOSPC}
			}
			return openFile(p, flag)
		}
		c.mu.Unlock()
		put(t, c, keyOf(50), 900)
		synctest.Wait()
		s := c.Stats()
		require.True(t, s.DiskOff)
		require.EqualValues(t, 1, s.DiskWriteErrors)
		require.EqualValues(t, 3, s.DiskChunks, "gave some room back")
		require.Equal(t, content(keyOf(50), 900), get(t, c, keyOf(50)))
		full.Store(false)
		put(t, c, keyOf(51), 900)
		synctest.Wait()
		require.EqualValues(t, 4, c.Stats().DiskWrites, "still off")
		time.Sleep(2 * time.Minute) // in the test's own time
		put(t, c, keyOf(52), 900)
		synctest.Wait()
		require.False(t, c.Stats().DiskOff)
		require.EqualValues(t, 5, c.Stats().DiskWrites)
	})
}

// TestPaceOfTheDisk: once, a reader that was faster than the disk left nothing there
// for the next one, since the queue was full and chunks were dropped.
func TestPaceOfTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Options{DiskBytes: 100_000, Dir: t.TempDir(), WriteQueueBytes: 4000, WriteWait: 50 * time.Millisecond})
		c.open = func(p string, flag int) (*os.File, error) {
			time.Sleep(30 * time.Millisecond) // in the test's own time
			return openFile(p, flag)
		}
		for i := range 20 {
			c.Pace(t.Context())
			put(t, c, keyOf(i), 900)
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		require.EqualValues(t, 20, c.Stats().DiskWrites)
		require.Zero(t, c.Stats().DiskSkipped)

		// A disk that is much slower delays nobody for long.
		c.open = func(p string, flag int) (*os.File, error) {
			time.Sleep(time.Second)
			return openFile(p, flag)
		}
		began := time.Now()
		for i := 20; i < 40; i++ {
			c.Pace(t.Context())
			put(t, c, keyOf(i), 900)
		}
		require.LessOrEqual(t, time.Since(began), 20*50*time.Millisecond)
		require.NotZero(t, c.Stats().DiskSkipped)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began = time.Now()
		c.Pace(ctx)
		require.Zero(t, time.Since(began))
		closeCache(t, c)
		c.Pace(t.Context())
	})
}

// TestOneWritesWhileTheQueueIsShort: two writes at one time would hold two of the
// runtime's processors, and are made only where readers would wait for the disk.
func TestOneWritesWhileTheQueueIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Options{DiskBytes: 100_000, Dir: t.TempDir(), WriteQueueBytes: 40_000})
		var open atomic.Int32
		proceed := make(chan struct{})
		c.open = func(p string, flag int) (*os.File, error) {
			open.Add(1)
			<-proceed
			return openFile(p, flag)
		}
		for i := range 5 {
			put(t, c, keyOf(i), 1000)
			synctest.Wait()
		}
		require.EqualValues(t, 5000, c.Stats().QueuedBytes)
		require.EqualValues(t, 1, open.Load())
		put(t, c, keyOf(5), 1000)
		synctest.Wait()
		require.EqualValues(t, 2, open.Load())
		close(proceed)
		synctest.Wait()
		require.EqualValues(t, 6, c.Stats().DiskWrites)
		closeCache(t, c)
	})
}

func TestCloseAnswersWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Options{MemoryBytes: 1000})
		_, fill, _, err := c.Acquire(t.Context(), keyOf(1), true)
		require.NoError(t, err)
		got := make(chan error, 1)
		go func() {
			_, err := fill.Wait(t.Context(), true)
			got <- err
		}()
		synctest.Wait()
		must(t, c.Close())
		must(t, c.Close())
		require.ErrorIs(t, <-got, ErrClosed)
		_, _, _, err = c.Acquire(t.Context(), keyOf(2), true)
		require.ErrorIs(t, err, ErrClosed)
		fill.Complete(content(keyOf(1), 10), crcOf(content(keyOf(1), 10))) // a late owner does no harm
	})
}

// TestRandomOperations runs readers against each other on a cache much too
// small, and compares all they see with what the keys hold.
func TestRandomOperations(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	opts := Options{MemoryBytes: 20_000, DiskBytes: 60_000, Dir: t.TempDir(), WriteQueueBytes: 10_000}
	for round := range 3 {
		c := mustOpen(t, opts)
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(round*100+w)))
				for range 1500 {
					if err := randomStep(c, r, &wg); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		c.mu.Lock()
		for k, e := range c.entries {
			if e.memPins != 0 || e.loading != nil || e.fill != nil || e.gone {
				t.Errorf("entry %s is not at rest: %+v", k, e)
			}
			if e.data == nil && e.pending == nil && !e.onDisk {
				t.Errorf("entry %s holds nothing", k)
			}
		}
		require.LessOrEqual(t, c.mem.bytes(), opts.MemoryBytes)
		require.LessOrEqual(t, c.disk.bytes(), opts.DiskBytes)
		used := int64(0)
		for _, e := range c.entries {
			if e.data != nil {
				used++
				want := 1
				if e.pending != nil {
					want++
				}
				if e.data.refs != want {
					t.Errorf("entry %s is used %d times, want %d", e.key, e.data.refs, want)
				}
			}
		}
		require.EqualValues(t, c.mem.len(), used)
		c.mu.Unlock()
		require.NoError(t, c.Close())
		s := c.Stats()
		require.Zero(t, s.Mapped, "buffers that nobody gave back")
		require.Equal(t, s.DiskChunks, len(filesIn(t, opts.Dir)))
		require.NotZero(t, s.MemoryHits)
		require.NotZero(t, s.DiskHits)
		require.NotZero(t, s.Joined+s.Fills)
		require.Zero(t, s.CorruptFiles)
	}
}

func randomStep(c *Cache, r *rand.Rand, owners *sync.WaitGroup) error {
	k := keyOf(int(r.ExpFloat64() * 25))
	size := 500 + int(k.Chunk)*7
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if r.IntN(200) == 0 {
		return c.Drop(k)
	}
	h, f, owner, err := c.Acquire(ctx, k, r.IntN(2) == 0)
	if err != nil {
		return err
	}
	if f != nil {
		switch {
		case owner && r.IntN(20) == 0:
			f.Fail(errors.New("transient"))
			f.Leave()
			return nil
		case owner:
			owners.Go(func() { complete(c, f, k, size) })
		}
		if r.IntN(10) == 0 {
			cancel()
		}
		h, err = f.Wait(ctx, true)
		if err != nil {
			if errors.Is(err, context.Canceled) || err.Error() == "transient" {
				return nil
			}
			return err
		}
	}
	defer h.Release()
	if !bytes.Equal(h.Bytes(), content(k, size)) {
		return fmt.Errorf("chunk %s has other bytes", k)
	}
	return nil
}

func TestGoldenFile(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "v2.chunk"))
	must(t, err)
	k := keyOf(7)
	data := content(k, 300)
	require.Equal(t, imageOf(k, data, crcOf(data)), b, "the format changed: it needs a new version")
}

func FuzzFile(f *testing.F) {
	f.Add(imageOf(keyOf(3), []byte("abc"), crcOf([]byte("abc"))), "03000000000000000000000000000000-00000003-0000000000000001-00000003")
	f.Add([]byte{}, filepath.Base(fileName(keyOf(1), 5, 7)))
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		key, seq, size, ok := parseFileName(name)
		if !ok {
			return
		}
		if ours := filepath.Base(fileName(key, seq, size)); ours != name {
			// Hex digits are read in both cases; only ours are written.
			if k2, s2, n2, ok := parseFileName(ours); !ok || k2 != key || s2 != seq || n2 != size {
				t.Fatalf("name %q", name)
			}
		}
		if _, err := checkImage(b, key, size, false); err != nil {
			if !errors.Is(err, errDamaged) {
				t.Fatal(err)
			}
		} else if int64(len(b)) < size {
			t.Fatal("verified what is not there")
		}
	})
}
