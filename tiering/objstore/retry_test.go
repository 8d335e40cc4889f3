package objstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/faulty"
	"github.com/firnlog/firn/tiering/objstore/mem"
	"github.com/firnlog/firn/tiering/objstore/storetest"
)

// first gives the first n calls of op a fault.
func first(n int, op string, f faulty.Fault) func(faulty.Call) faulty.Fault {
	return func(c faulty.Call) faulty.Fault {
		if c.Op == op && c.N < n {
			return f
		}
		return faulty.Fault{}
	}
}

// TestRetryingStore: the wrapper changes nothing of what a store holds, and
// neither does a store that fails every other call.
func TestRetryingStore(t *testing.T) {
	t.Run("Plain", func(t *testing.T) {
		storetest.Suite{Open: func(*testing.T) objstore.Store {
			return objstore.WithRetries(mem.New(), objstore.RetryOptions{})
		}}.Run(t)
	})
	t.Run("EveryOtherCallFails", func(t *testing.T) {
		storetest.Suite{Open: func(*testing.T) objstore.Store {
			bad := faulty.Wrap(mem.New(), func(c faulty.Call) faulty.Fault {
				kinds := []faulty.Kind{faulty.Unavailable, faulty.Unseen}
				if c.Op == "copy" || c.N%2 == 1 {
					return faulty.Fault{}
				}
				return faulty.Fault{Kind: kinds[c.N/2%2]}
			})
			return objstore.WithRetries(bad, objstore.RetryOptions{BaseDelay: time.Microsecond, Attempts: 20, Budget: objstore.NewBudget(1e6)})
		}}.Run(t)
	})
}

// TestFaults is the list of what an object store may do to us, and what
// becomes of it.
func TestFaults(t *testing.T) {
	body := storetest.Body(1, 10_000)
	sum := objstore.ChecksumOf(body)
	for _, c := range []struct {
		name  string
		fault faulty.Fault
		took  time.Duration // at least, per failed attempt
	}{
		{"503", faulty.Fault{Kind: faulty.Unavailable}, 0},
		{"hangs", faulty.Fault{Kind: faulty.Hang}, 30 * time.Second},
		{"resets mid-body", faulty.Fault{Kind: faulty.Reset, At: 2000}, 0},
		{"stalls mid-body", faulty.Fault{Kind: faulty.Stall, At: 2000}, 30 * time.Second},
		{"succeeds and loses the answer", faulty.Fault{Kind: faulty.Unseen}, 0},
		{"succeeds after the time-out", faulty.Fault{Kind: faulty.UnseenHang}, 30 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, op := range []string{"put", "get", "head", "delete", "copy", "list"} {
				if op == "list" {
					c.fault.At = 0 // objects, not bytes
				}
				synctest.Test(t, func(t *testing.T) {
					inner := mem.New()
					if op != "put" {
						storetest.Put(t, inner, "k", body)
					}
					var seen []objstore.Attempt
					s := objstore.WithRetries(faulty.Wrap(inner, first(2, op, c.fault)), objstore.RetryOptions{
						Observe: func(a objstore.Attempt) { seen = append(seen, a) },
					})
					start := time.Now()
					checkOp(t, s, op, body, sum)
					require.GreaterOrEqual(t, time.Since(start), c.took*time.Duration(failures(op, c.fault.Kind)))
					require.Less(t, time.Since(start), 3*time.Minute)
					failed := 0
					for _, a := range seen {
						if a.Err != nil && a.Op == op && !errors.Is(a.Err, objstore.ErrNotExist) {
							require.ErrorIs(t, a.Err, objstore.ErrTransient, op)
							require.True(t, a.Retrying)
							failed++
						}
					}
					require.Equal(t, failures(op, c.fault.Kind), failed, op)
				})
			}
		})
	}
}

// failures is how many attempts fail when the first two calls have the fault:
// a PUT that took effect unseen is recognised by the second one.
func failures(op string, k faulty.Kind) int {
	if op == "put" && (k == faulty.Unseen || k == faulty.UnseenHang) {
		return 1
	}
	return 2
}

func checkOp(t *testing.T, s objstore.Store, op string, body []byte, sum objstore.Checksum) {
	t.Helper()
	ctx := t.Context()
	switch op {
	case "put":
		info, err := s.Put(ctx, "k", bytes.NewReader(body), int64(len(body)), objstore.PutOptions{IfAbsent: true})
		require.NoError(t, err)
		require.Equal(t, sum, info.Checksum)
	case "copy":
		_, err := s.Copy(ctx, "k", "k2", objstore.CopyOptions{})
		require.NoError(t, err)
	case "delete":
		require.NoError(t, errors.Join(s.Delete(ctx, "k")...))
		_, err := s.Head(ctx, "k")
		require.ErrorIs(t, err, objstore.ErrNotExist)
		return
	case "list":
		keys, err := storetest.Keys(ctx, s, "", "")
		require.NoError(t, err)
		require.Equal(t, []string{"k"}, keys)
	}
	info, err := s.Head(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, sum, info.Checksum)
	got, err := storetest.Get(ctx, s, "k", 0, int64(len(body)))
	require.NoError(t, err)
	require.True(t, bytes.Equal(body, got))
}

// A retried conditional PUT that finds another's object must not claim it.
func TestTakenKeyIsNotClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := mem.New()
		storetest.Put(t, inner, "k", []byte("theirs"))
		s := objstore.WithRetries(faulty.Wrap(inner, first(1, "put", faulty.Fault{Kind: faulty.Unavailable})), objstore.RetryOptions{})
		_, err := s.Put(t.Context(), "k", strings.NewReader("ours!!"), 6, objstore.PutOptions{IfAbsent: true})
		require.ErrorIs(t, err, objstore.ErrExists)
		// Without an attempt in doubt the answer is the driver's.
		_, err = s.Put(t.Context(), "k", strings.NewReader("theirs"), 6, objstore.PutOptions{IfAbsent: true})
		require.ErrorIs(t, err, objstore.ErrExists)
	})
}

// Bits flipped by a store that checks nothing are found by Verify, in either
// direction.
func TestFlippedBits(t *testing.T) {
	body := storetest.Body(1, 1000)
	for _, op := range []string{"put", "get"} {
		s := faulty.Wrap(mem.New(), first(1, op, faulty.Fault{Kind: faulty.Flip, At: 77}))
		storetest.Put(t, s, "k", body)
		_, err := objstore.Verify(t.Context(), s, "k", 1000, objstore.ChecksumOf(body), true)
		require.ErrorIs(t, err, objstore.ErrChecksum, op)
		_, err = objstore.Verify(t.Context(), s, "k", 1000, objstore.ChecksumOf(body), true)
		if op == "get" { // the damage was on the wire
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, objstore.ErrChecksum)
		}
	}
}

// A store that is down for long gets few retries: the budget ends, and calls
// fail at once, until time gives tokens back.
func TestBudgetEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		s := objstore.WithRetries(faulty.Wrap(mem.New(), func(faulty.Call) faulty.Fault {
			return faulty.Fault{Kind: faulty.Unavailable}
		}), objstore.RetryOptions{Observe: func(objstore.Attempt) { attempts++ }, BaseDelay: 1, MaxDelay: 1})
		const calls = 1000
		for range calls {
			_, err := s.Head(t.Context(), "k")
			require.ErrorIs(t, err, objstore.ErrTransient)
		}
		require.Equal(t, calls+100, attempts)
		time.Sleep(10 * time.Second) // the bubble's clock: five tokens
		_, err := s.Head(t.Context(), "k")
		require.ErrorIs(t, err, objstore.ErrTransient)
		require.Equal(t, calls+100+6, attempts)
	})
}

// The caller's end is not dressed up as the store's, and stops the waiting.
func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objstore.WithRetries(faulty.Wrap(mem.New(), first(9, "head", faulty.Fault{Kind: faulty.Hang})), objstore.RetryOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := s.Head(ctx, "k")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, objstore.ErrTransient)
		require.Equal(t, time.Second, time.Since(start))
	})
}

// What another attempt cannot help is not tried again.
func TestPermanentErrorsAreNotRetried(t *testing.T) {
	attempts := 0
	s := objstore.WithRetries(mem.New(), objstore.RetryOptions{Observe: func(objstore.Attempt) { attempts++ }})
	_, err := s.Head(t.Context(), "none")
	require.ErrorIs(t, err, objstore.ErrNotExist)
	require.Equal(t, 1, attempts)
}

// A body broken at many places arrives whole, and each byte is asked for once.
func TestResume(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		body := storetest.Body(3, 5000)
		cuts := rapid.SliceOfN(rapid.Int64Range(1, 900), 0, 20).Draw(rt, "cuts")
		inner := mem.New()
		storetest.Put(t, inner, "k", body)
		bad := faulty.Wrap(inner, func(c faulty.Call) faulty.Fault {
			if c.Op == "get" && c.N < len(cuts) {
				return faulty.Fault{Kind: faulty.Reset, At: cuts[c.N]}
			}
			return faulty.Fault{}
		})
		var bytesGot int64
		s := objstore.WithRetries(bad, objstore.RetryOptions{
			BaseDelay: 1, MaxDelay: 1, Attempts: 2,
			Observe: func(a objstore.Attempt) { bytesGot += a.Bytes },
		})
		off := rapid.Int64Range(0, 4999).Draw(rt, "off")
		r, err := s.GetRange(t.Context(), "k", off, 5000-off)
		require.NoError(rt, err)
		got, err := io.ReadAll(r)
		require.NoError(rt, err)
		require.NoError(rt, r.Close())
		require.True(rt, bytes.Equal(body[off:], got))
		require.Equal(rt, 5000-off, bytesGot)
	})
}

func TestBodyClosedEarly(t *testing.T) {
	s := objstore.WithRetries(mem.New(), objstore.RetryOptions{})
	storetest.Put(t, s, "k", storetest.Body(1, 100))
	r, err := s.GetRange(t.Context(), "k", 0, 100)
	require.NoError(t, err)
	_, err = io.ReadFull(r, make([]byte, 10))
	require.NoError(t, err)
	require.NoError(t, r.Close())
	_, err = r.Read(make([]byte, 10))
	require.ErrorIs(t, err, io.EOF)
}

func TestPutDeadlineGrowsWithSize(t *testing.T) {
	o := objstore.RetryOptions{Timeout: time.Second, MinRate: 1 << 20}
	require.Equal(t, 11*time.Second, o.PutDeadline(10<<20))
	o.PutTimeout = 5 * time.Second
	require.Equal(t, 5*time.Second, o.PutDeadline(10<<20))
	require.Equal(t, 3*time.Second, o.PutDeadline(2<<20))
}
