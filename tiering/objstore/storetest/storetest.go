// Package storetest is the conformance suite of objstore.Store. Each driver's
// test, and that of each wrapper, runs it, so that they cannot differ in what
// the rest of Firn relies on.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/tiering/objstore"
)

// Suite says what to test.
type Suite struct {
	// Open gives an empty store; the suite closes it.
	Open func(t *testing.T) objstore.Store
	// Large is a body size in bytes that makes the store use its path for
	// large objects (several parts, the last one short). 0: it has none.
	Large int64
	// NoVouch is set for a store that keeps no checksum of its own.
	NoVouch bool
}

// Run runs the suite.
func (s Suite) Run(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T, objstore.Store)
	}{
		{"PutThenRead", s.putThenRead},
		{"Large", s.large},
		{"ChecksumRefused", s.checksumRefused},
		{"IfAbsent", s.ifAbsent},
		{"IfAbsentRace", s.ifAbsentRace},
		{"Overwrite", s.overwrite},
		{"Ranges", s.ranges},
		{"Missing", s.missing},
		{"List", s.list},
		{"ListPages", s.listPages},
		{"Delete", s.delete},
		{"Copy", s.copy},
		{"BadKeys", s.badKeys},
		{"Cancelled", s.cancelled},
		{"Verify", s.verify},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := s.Open(t)
			t.Cleanup(func() { require.NoError(t, store.Close()) })
			c.test(t, store)
		})
	}
}

// Body makes size bytes that are the same for the same seed.
func Body(seed uint64, size int64) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(size)})
	_, _ = r.Read(b) // never fails
	return b
}

// Put stores b and fails the test otherwise.
func Put(t testing.TB, s objstore.Store, key string, b []byte) objstore.ObjectInfo {
	t.Helper()
	info, err := s.Put(t.Context(), key, bytes.NewReader(b), int64(len(b)), objstore.PutOptions{})
	require.NoError(t, err)
	return info
}

// Get reads a whole range.
func Get(ctx context.Context, s objstore.Store, key string, off, length int64) ([]byte, error) {
	r, err := s.GetRange(ctx, key, off, length)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// Keys lists the keys under prefix.
func Keys(ctx context.Context, s objstore.Store, prefix, startAfter string) ([]string, error) {
	keys := []string{}
	for info, err := range s.List(ctx, prefix, startAfter) {
		if err != nil {
			return keys, err
		}
		keys = append(keys, info.Key)
	}
	return keys, nil
}

func (s Suite) putThenRead(t *testing.T, store objstore.Store) {
	for i, size := range []int64{0, 1, 4095, 4096, 1<<20 + 3} {
		key := fmt.Sprintf("a/b%d/object", i)
		body := Body(uint64(i), size)
		info, err := store.Put(t.Context(), key, bytes.NewReader(body), size,
			objstore.PutOptions{IfAbsent: true, Checksum: objstore.ChecksumOf(body)})
		require.NoError(t, err)
		require.Equal(t, key, info.Key)
		require.Equal(t, size, info.Size)
		s.expect(t, store, key, body)
	}
}

// expect checks that the object is there, whole, described right.
func (s Suite) expect(t *testing.T, store objstore.Store, key string, body []byte) {
	t.Helper()
	info, err := store.Head(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, key, info.Key)
	require.EqualValues(t, len(body), info.Size)
	if !s.NoVouch {
		require.Equal(t, objstore.ChecksumOf(body), info.Checksum)
	}
	require.InDelta(t, 0, info.Age().Seconds(), 120, "modified %v as of %v", info.Modified, info.AsOf)
	got, err := Get(t.Context(), store, key, 0, int64(len(body)))
	require.NoError(t, err)
	require.True(t, bytes.Equal(body, got), "bytes differ")
}

func (s Suite) large(t *testing.T, store objstore.Store) {
	if s.Large == 0 {
		return
	}
	body := Body(7, s.Large)
	put := func(key string, o objstore.PutOptions) error {
		_, err := store.Put(t.Context(), key, bytes.NewReader(body), s.Large, o)
		return err
	}
	require.NoError(t, put("large", objstore.PutOptions{IfAbsent: true, Checksum: objstore.ChecksumOf(body)}))
	s.expect(t, store, "large", body)
	require.ErrorIs(t, put("large", objstore.PutOptions{IfAbsent: true}), objstore.ErrExists)
	require.ErrorIs(t, put("wrong", objstore.PutOptions{Checksum: objstore.CRC32C(1)}), objstore.ErrChecksum)
	_, err := store.Head(t.Context(), "wrong")
	require.ErrorIs(t, err, objstore.ErrNotExist)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = store.Put(ctx, "cancelled", &cancelAt{bytes.NewReader(body), s.Large / 2, cancel}, s.Large, objstore.PutOptions{})
	require.ErrorIs(t, err, context.Canceled)
	keys, err := Keys(t.Context(), store, "", "")
	require.NoError(t, err)
	require.Equal(t, []string{"large"}, keys)
}

// cancelAt cancels a context when the body is read from off on.
type cancelAt struct {
	io.ReaderAt
	off    int64
	cancel func()
}

// ReadAt implements io.ReaderAt.
func (c *cancelAt) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > c.off {
		c.cancel()
	}
	return c.ReaderAt.ReadAt(p, off)
}

func (s Suite) checksumRefused(t *testing.T, store objstore.Store) {
	body := Body(1, 1000)
	_, err := store.Put(t.Context(), "k", bytes.NewReader(body), 1000, objstore.PutOptions{Checksum: objstore.CRC32C(12345)})
	require.ErrorIs(t, err, objstore.ErrChecksum)
	require.True(t, objstore.Retryable(err))
	_, err = store.Head(t.Context(), "k")
	require.ErrorIs(t, err, objstore.ErrNotExist)
}

func (s Suite) ifAbsent(t *testing.T, store objstore.Store) {
	first, second := Body(1, 100), Body(2, 200)
	put := func(b []byte) error {
		_, err := store.Put(t.Context(), "once", bytes.NewReader(b), int64(len(b)), objstore.PutOptions{IfAbsent: true})
		return err
	}
	require.NoError(t, put(first))
	err := put(second)
	require.ErrorIs(t, err, objstore.ErrExists)
	require.False(t, objstore.Retryable(err))
	s.expect(t, store, "once", first)
	require.NoError(t, errors.Join(store.Delete(t.Context(), "once")...))
	require.NoError(t, put(second))
	s.expect(t, store, "once", second)
}

func (s Suite) ifAbsentRace(t *testing.T, store objstore.Store) {
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for { // a store may answer "conflict, try again"
				b := Body(uint64(i), 5000)
				_, errs[i] = store.Put(t.Context(), "race", bytes.NewReader(b), 5000, objstore.PutOptions{IfAbsent: true})
				if !errors.Is(errs[i], objstore.ErrTransient) {
					return
				}
			}
		})
	}
	wg.Wait()
	winner := slices.Index(errs, nil)
	require.NotEqual(t, -1, winner, "nobody won: %v", errs)
	for i, err := range errs {
		if i != winner {
			require.ErrorIs(t, err, objstore.ErrExists)
		}
	}
	s.expect(t, store, "race", Body(uint64(winner), 5000))
}

func (s Suite) overwrite(t *testing.T, store objstore.Store) {
	Put(t, store, "owner", Body(1, 300))
	Put(t, store, "owner", Body(2, 20))
	s.expect(t, store, "owner", Body(2, 20))
}

func (s Suite) ranges(t *testing.T, store objstore.Store) {
	const size = 100_000
	body := Body(3, size)
	Put(t, store, "k", body)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		off := r.Int64N(size)
		length := 1 + r.Int64N(size-off)
		got, err := Get(t.Context(), store, "k", off, length)
		require.NoError(t, err, "seed %d", seed)
		require.True(t, bytes.Equal(body[off:off+length], got), "range %d+%d, seed %d", off, length, seed)
	}
	for _, bad := range [][2]int64{{size, 1}, {size - 1, 2}, {size + 10, 5}, {-1, 5}, {0, -1}, {1, 1<<63 - 1}} {
		_, err := Get(t.Context(), store, "k", bad[0], bad[1])
		require.ErrorIs(t, err, objstore.ErrInvalid, "range %v", bad)
		require.False(t, objstore.Retryable(err))
	}
	part, err := store.GetRange(t.Context(), "k", 10, 5000)
	require.NoError(t, err)
	head := make([]byte, 100)
	_, err = io.ReadFull(part, head)
	require.NoError(t, err)
	require.Equal(t, body[10:110], head)
	require.NoError(t, part.Close(), "closed before its end")
}

func (s Suite) missing(t *testing.T, store objstore.Store) {
	Put(t, store, "dir/object", []byte("x"))
	for _, key := range []string{"none", "dir", "dir/none", "dir/object/below"} {
		_, err := store.Head(t.Context(), key)
		require.ErrorIs(t, err, objstore.ErrNotExist, key)
		require.ErrorContains(t, err, key)
		_, err = store.GetRange(t.Context(), key, 0, 1)
		require.ErrorIs(t, err, objstore.ErrNotExist, key)
		_, err = store.Copy(t.Context(), key, "copied", objstore.CopyOptions{})
		require.ErrorIs(t, err, objstore.ErrNotExist, key)
	}
}

func (s Suite) list(t *testing.T, store objstore.Store) {
	all := []string{"A", "a-b", "a.b", "a/b/c", "a/b/d", "a/b-c", "a/b0", "a0", "a_b", "b/1", "b/2", "b/3/x", "zz"}
	for _, key := range all {
		Put(t, store, key, []byte(key))
	}
	slices.Sort(all)
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "a/b/c", "b/", "b/3", "none", "none/x"} {
		for _, after := range append([]string{"", "a/b/", "zzz"}, all...) {
			want := []string{}
			for _, key := range all {
				if strings.HasPrefix(key, prefix) && key > after {
					want = append(want, key)
				}
			}
			got, err := Keys(t.Context(), store, prefix, after)
			require.NoError(t, err)
			require.Equal(t, want, got, "prefix %q after %q", prefix, after)
		}
	}
	for info, err := range store.List(t.Context(), "a/b", "") {
		require.NoError(t, err)
		require.EqualValues(t, len(info.Key), info.Size)
		require.InDelta(t, 0, info.Age().Seconds(), 120)
		require.WithinDuration(t, time.Now(), info.AsOf, time.Minute)
		break // a listing may be left early
	}
}

func (s Suite) listPages(t *testing.T, store objstore.Store) {
	const count = 1030 // S3 lists 1000 at a time
	want := make([]string, count)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < count; i += 8 {
				want[i] = fmt.Sprintf("p/%04d", i)
				if _, err := store.Put(t.Context(), want[i], strings.NewReader("x"), 1, objstore.PutOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got, err := Keys(t.Context(), store, "p/", "")
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, errors.Join(store.Delete(t.Context(), want...)...))
	got, err = Keys(t.Context(), store, "", "")
	require.NoError(t, err)
	require.Empty(t, got)
}

func (s Suite) delete(t *testing.T, store objstore.Store) {
	for _, key := range []string{"d/1", "d/2", "d/3"} {
		Put(t, store, key, []byte("x"))
	}
	errs := store.Delete(t.Context(), "d/1", "d/none", "other/none", "bad//key", "d/3", "d/3", "d")
	require.Len(t, errs, 7)
	for i, err := range errs {
		if i == 3 {
			require.ErrorIs(t, err, objstore.ErrInvalid)
		} else {
			require.NoError(t, err)
		}
	}
	keys, err := Keys(t.Context(), store, "", "")
	require.NoError(t, err)
	require.Equal(t, []string{"d/2"}, keys)
	require.Empty(t, store.Delete(t.Context()))
}

func (s Suite) copy(t *testing.T, store objstore.Store) {
	body := Body(4, 70_000)
	Put(t, store, "from/x", body)
	info, err := store.Copy(t.Context(), "from/x", "to/y", objstore.CopyOptions{})
	require.NoError(t, err)
	require.Equal(t, "to/y", info.Key)
	s.expect(t, store, "to/y", body)
	require.NoError(t, errors.Join(store.Delete(t.Context(), "from/x")...))
	s.expect(t, store, "to/y", body)
}

func (s Suite) badKeys(t *testing.T, store objstore.Store) {
	for _, key := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../x", ".firn-tmp/x", "a b", "a\x00b", "ä", "a\\b", strings.Repeat("k", 1025)} {
		_, err := store.Put(t.Context(), key, strings.NewReader("x"), 1, objstore.PutOptions{})
		require.ErrorIs(t, err, objstore.ErrInvalid, "%q", key)
		_, err = store.Head(t.Context(), key)
		require.ErrorIs(t, err, objstore.ErrInvalid, "%q", key)
		_, err = store.GetRange(t.Context(), key, 0, 1)
		require.ErrorIs(t, err, objstore.ErrInvalid, "%q", key)
		require.ErrorIs(t, store.Delete(t.Context(), key)[0], objstore.ErrInvalid, "%q", key)
	}
	_, err := Keys(t.Context(), store, "../", "")
	require.ErrorIs(t, err, objstore.ErrInvalid)
	_, err = store.Put(t.Context(), "negative", strings.NewReader("x"), -1, objstore.PutOptions{})
	require.ErrorIs(t, err, objstore.ErrInvalid)
	_, err = store.Put(t.Context(), "short", strings.NewReader("x"), 2, objstore.PutOptions{})
	require.Error(t, err)
	_, err = store.Head(t.Context(), "short")
	require.ErrorIs(t, err, objstore.ErrNotExist)
}

func (s Suite) cancelled(t *testing.T, store objstore.Store) {
	Put(t, store, "k", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := store.Put(ctx, "new", strings.NewReader("x"), 1, objstore.PutOptions{})
	require.ErrorIs(t, err, context.Canceled)
	_, err = store.Head(ctx, "k")
	require.ErrorIs(t, err, context.Canceled)
	_, err = store.GetRange(ctx, "k", 0, 1)
	require.ErrorIs(t, err, context.Canceled)
	_, err = Keys(ctx, store, "", "")
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, store.Delete(ctx, "k")[0], context.Canceled)
	require.False(t, objstore.Retryable(err))
	s.expect(t, store, "k", []byte("x"))
}

func (s Suite) verify(t *testing.T, store objstore.Store) {
	body := Body(5, 9000)
	sum := objstore.ChecksumOf(body)
	Put(t, store, "k", body)
	for _, deep := range []bool{false, true} {
		info, err := objstore.Verify(t.Context(), store, "k", 9000, sum, deep)
		require.NoError(t, err)
		require.Equal(t, sum, info.Checksum)
		_, err = objstore.Verify(t.Context(), store, "k", 9001, sum, deep)
		require.ErrorIs(t, err, objstore.ErrChecksum)
		_, err = objstore.Verify(t.Context(), store, "k", 9000, objstore.CRC32C(1), deep)
		require.ErrorIs(t, err, objstore.ErrChecksum)
		_, err = objstore.Verify(t.Context(), store, "none", 9000, sum, deep)
		require.ErrorIs(t, err, objstore.ErrNotExist)
	}
}
