package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
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

func put(t *testing.T, c *Cache, k Key, size int) {
	t.Helper()
	h, f, owner, err := c.Acquire(t.Context(), k, true)
	require.NoError(t, err)
	require.Nil(t, h)
	require.True(t, owner)
	f.Complete(append(c.Buffer(size)[:0], content(k, size)...))
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
	b, err := io.ReadAll(io.NewSectionReader(h, 0, h.Len()))
	require.NoError(t, err)
	return b
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
		fill.Complete(content(k, 1000))
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
	fill.Complete(content(keyOf(0), 200))
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
		f.Complete(content(keyOf(i), 900))
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

func TestDiskServesWhatMemoryEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Options{MemoryBytes: 1000, DiskBytes: 100_000, Dir: t.TempDir(), IdleFiles: 3})
		defer closeCache(t, c)
		for i := range 21 {
			put(t, c, keyOf(i), 900)
		}
		synctest.Wait()
		require.EqualValues(t, 20, c.Stats().DiskWrites, "the last is in memory")
		for i := range 20 {
			require.Equal(t, content(keyOf(i), 900), get(t, c, keyOf(i)))
		}
		h, _, _, err := c.Acquire(t.Context(), keyOf(3), true)
		require.NoError(t, err)
		f, off := h.File()
		require.NotNil(t, f)
		b := make([]byte, h.Len())
		_, err = f.ReadAt(b, off)
		require.NoError(t, err)
		require.Equal(t, content(keyOf(3), 900), b)
		require.NoError(t, c.DropObject(keyOf(3).Object))
		require.Len(t, filesIn(t, c.opts.Dir), 19)
		_, err = f.ReadAt(b, off)
		require.NoError(t, err, "a dropped file stays readable while pinned")
		h.Release()
		require.Nil(t, get(t, c, keyOf(3)))
		require.LessOrEqual(t, c.Stats().IdleFiles, 3)
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
			9:  func(p string) { flip(t, p, 33) },
			11: func(p string) { must(t, os.WriteFile(p, make([]byte, 964), 0o600)) },
			13: func(p string) { must(t, os.Remove(p)) },
			15: func(p string) { must(t, os.Truncate(p, 2000)) },
		}
		for _, p := range filesIn(t, opts.Dir) {
			k, _, ok := parseFileName(filepath.Base(p))
			require.True(t, ok)
			if f := damage[int(k.Chunk)]; f != nil {
				f(p)
			}
		}
		half := filepath.Join(opts.Dir, fileName(keyOf(99), 1)+tempSuffix)
		must(t, os.MkdirAll(filepath.Dir(half), 0o700))
		must(t, os.WriteFile(half, []byte("half"), 0o600))

		c = mustOpen(t, opts)
		defer closeCache(t, c)
		require.NoFileExists(t, half)
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
		require.EqualValues(t, 5, c.Stats().CorruptFiles, "all but the empty and the missing one")
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

// TestEveryBitOfAFileIsChecked flips each bit of the header and some of the rest.
func TestEveryBitOfAFileIsChecked(t *testing.T) {
	k := keyOf(5)
	data := content(k, 50)
	header := encodeFileHeader(k, data)
	whole := append(header[:], data...)
	require.NoError(t, verifyFile(bytes.NewReader(whole), k, 50))
	for bit := range len(whole) * 8 {
		whole[bit/8] ^= 1 << (bit % 8)
		require.ErrorIs(t, verifyFile(bytes.NewReader(whole), k, 50), errDamaged, "bit %d", bit)
		whole[bit/8] ^= 1 << (bit % 8)
	}
	require.ErrorIs(t, verifyFile(bytes.NewReader(whole), keyOf(6), 50), errDamaged)
	require.ErrorIs(t, verifyFile(bytes.NewReader(whole[:90]), k, 50), errDamaged)
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
		c.create = func(p string) (*os.File, error) {
			if full.Load() {
				return nil, &fs.PathError{Op: "open", Path: p, Err: syscall.ENOSPC}
			}
			return createFile(p)
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
		fill.Complete(content(keyOf(1), 10)) // a late owner does no harm
	})
}

// TestRandomOperations runs readers against each other on a cache much too
// small, and compares all they see with what the keys hold.
func TestRandomOperations(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	opts := Options{MemoryBytes: 20_000, DiskBytes: 60_000, Dir: t.TempDir(), WriteQueueBytes: 10_000, IdleFiles: 4}
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
			if e.memPins != 0 || e.diskPins != 0 || e.fill != nil || e.gone {
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
		require.Zero(t, c.Stats().IdleFiles)
		s := c.Stats()
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
			owners.Go(func() { f.Complete(append(c.Buffer(size)[:0], content(k, size)...)) })
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
	b, err := io.ReadAll(io.NewSectionReader(h, 0, h.Len()))
	if err != nil {
		return err
	}
	if !bytes.Equal(b, content(k, size)) {
		return fmt.Errorf("chunk %s has other bytes", k)
	}
	return nil
}

func TestGoldenFile(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "v1.chunk"))
	must(t, err)
	k := keyOf(7)
	data := content(k, 300)
	header := encodeFileHeader(k, data)
	require.Equal(t, append(header[:], data...), b, "the format changed: it needs a new version")
	require.NoError(t, verifyFile(bytes.NewReader(b), k, 300))
}

func FuzzFileHeader(f *testing.F) {
	h := encodeFileHeader(keyOf(3), []byte("abc"))
	f.Add(append(h[:], "abc"...), "0300-00000003-0000000000000001")
	f.Add([]byte{}, filepath.Base(fileName(keyOf(1), 5)))
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		key, size, _, err := decodeFileHeader(b)
		if err == nil {
			if verr := verifyFile(bytes.NewReader(b), key, size); verr == nil && int64(len(b)) < size+fileHeaderSize {
				t.Fatal("verified what is not there")
			}
		} else if !errors.Is(err, errDamaged) {
			t.Fatal(err)
		}
		if key, seq, ok := parseFileName(name); ok && filepath.Base(fileName(key, seq)) != name {
			// Hex digits are read in both cases; only ours are written.
			if k2, s2, ok := parseFileName(filepath.Base(fileName(key, seq))); !ok || k2 != key || s2 != seq {
				t.Fatalf("name %q", name)
			}
		}
	})
}
