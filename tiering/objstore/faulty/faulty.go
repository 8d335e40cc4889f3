// Package faulty wraps an object store with the faults that real ones have,
// for tests: refusal, hanging, broken bodies, success that looks like failure,
// damage, delay, and a PUT that lands long after its caller gave up. It starts
// no goroutine; late PUTs land when the test says so.
package faulty

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/firnlog/firn/tiering/objstore"
)

// Call is one call of a Store method. For Delete there is one per key.
type Call struct {
	Op  string // as in objstore.OpError
	Key string // or the prefix of a List
	N   int    // how many calls of this Op came before
}

// Kind is what goes wrong.
type Kind int

// The faults.
const (
	None        Kind = iota
	Unavailable      // 503: nothing happens, ErrTransient
	Hang             // nothing happens until the context ends
	Reset            // the connection breaks after At bytes of body; a Put has no effect
	Stall            // as Reset, but the body hangs until the context ends
	Unseen           // it takes effect, and then the answer is lost: ErrTransient
	UnseenHang       // it takes effect, and then hangs until the context ends
	Late             // a Put fails as Unavailable, and takes effect at LandLate
	Flip             // bit 0 of byte At is flipped: of the body read, or of the body stored
	Slow             // Delay before all goes well
)

// Fault is what goes wrong with one call.
type Fault struct {
	Kind  Kind
	At    int64         // byte offset in the body, for Reset, Stall and Flip
	Delay time.Duration // for Slow
}

// Store is a faulty store. Make one with Wrap.
type Store struct {
	inner objstore.Store

	mu     sync.Mutex
	plan   func(Call) Fault
	counts map[string]int
	late   []func() error
	record func(Call, error)
}

var _ objstore.Store = (*Store)(nil)

// Wrap makes a store whose calls go wrong as plan says; nil: not at all. Plan
// is called under a lock, in the order of calls.
func Wrap(inner objstore.Store, plan func(Call) Fault) *Store {
	return &Store{inner: inner, plan: plan, counts: map[string]int{}}
}

// SetPlan changes the plan; call counts go on.
func (s *Store) SetPlan(plan func(Call) Fault) {
	s.mu.Lock()
	s.plan = plan
	s.mu.Unlock()
}

// Record makes fn hear of each call's end, for transcripts.
func (s *Store) Record(fn func(Call, error)) {
	s.mu.Lock()
	s.record = fn
	s.mu.Unlock()
}

// LandLate lets the late PUTs take effect, and returns their errors.
func (s *Store) LandLate() error {
	s.mu.Lock()
	late := s.late
	s.late = nil
	s.mu.Unlock()
	var errs []error
	for _, land := range late {
		errs = append(errs, land())
	}
	return errors.Join(errs...)
}

// begin counts a call and finds its fault.
func (s *Store) begin(op, key string) (Call, Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := Call{Op: op, Key: key, N: s.counts[op]}
	s.counts[op]++
	if s.plan == nil {
		return c, Fault{}
	}
	return c, s.plan(c)
}

func (s *Store) end(c Call, err error) error {
	s.mu.Lock()
	record := s.record
	s.mu.Unlock()
	if record != nil {
		record(c, err)
	}
	return err
}

func (s *Store) fail(c Call, kind, err error) error {
	return &objstore.OpError{Op: c.Op, Store: s.String(), Key: c.Key, Kind: kind, Err: err}
}

var (
	errUnavailable = errors.New("SlowDown (HTTP 503): injected")
	errReset       = errors.New("connection reset by peer: injected")
	errLost        = errors.New("connection lost before the answer: injected")
)

func (s *Store) hang(ctx context.Context, c Call) error {
	<-ctx.Done()
	return s.fail(c, nil, ctx.Err())
}

// around carries out one call without a body: do is the effect.
func (s *Store) around(ctx context.Context, c Call, f Fault, do func() error) error {
	switch f.Kind {
	case Unavailable, Late:
		return s.fail(c, objstore.ErrTransient, errUnavailable)
	case Reset:
		return s.fail(c, objstore.ErrTransient, errReset)
	case Hang, Stall:
		return s.hang(ctx, c)
	case Unseen, UnseenHang:
		if err := do(); err != nil {
			return err
		}
		if f.Kind == UnseenHang {
			return s.hang(ctx, c)
		}
		return s.fail(c, objstore.ErrTransient, errLost)
	case Slow:
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return s.fail(c, nil, ctx.Err())
		}
	case None, Flip:
	}
	return do()
}

func (s *Store) String() string { return s.inner.String() }

// Close closes the inner store.
func (s *Store) Close() error { return s.inner.Close() }

// Put implements objstore.Store.
func (s *Store) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o objstore.PutOptions) (info objstore.ObjectInfo, err error) {
	c, f := s.begin("put", key)
	switch f.Kind {
	case Late:
		if err := s.delay(ctx, key, body, size, o); err != nil {
			return info, s.end(c, err)
		}
	case Reset, Stall:
		part := make([]byte, min(f.At, size))
		if _, err := body.ReadAt(part, 0); err != nil && !errors.Is(err, io.EOF) {
			return info, s.end(c, err)
		}
	case Flip: // a store that checks nothing and damages what it is given
		body = flippedReaderAt{body, f.At}
		o.Checksum = objstore.Checksum{}
	default: // the call goes wrong, not its body
	}
	err = s.around(ctx, c, f, func() error {
		info, err = s.inner.Put(ctx, key, body, size, o)
		return err
	})
	return info, s.end(c, err)
}

// delay keeps a copy of the body for LandLate.
func (s *Store) delay(ctx context.Context, key string, body io.ReaderAt, size int64, o objstore.PutOptions) error {
	b := make([]byte, size)
	if n, err := body.ReadAt(b, 0); int64(n) < size {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = append(s.late, func() error {
		_, err := s.inner.Put(ctx, key, bytes.NewReader(b), size, o)
		if errors.Is(err, objstore.ErrExists) {
			return nil // nobody is left to hear it
		}
		return err
	})
	return nil
}

type flippedReaderAt struct {
	body io.ReaderAt
	at   int64
}

// ReadAt implements io.ReaderAt.
func (f flippedReaderAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.body.ReadAt(p, off)
	if off <= f.at && f.at < off+int64(n) {
		p[f.at-off] ^= 1
	}
	return n, err
}

// GetRange implements objstore.Store.
func (s *Store) GetRange(ctx context.Context, key string, off, length int64) (body io.ReadCloser, err error) {
	c, f := s.begin("get", key)
	inBody := f
	switch f.Kind {
	case Reset, Stall, Flip:
		f = Fault{} // the body goes wrong, not the call
	default:
	}
	err = s.around(ctx, c, f, func() error {
		body, err = s.inner.GetRange(ctx, key, off, length)
		return err
	})
	if err == nil && f != inBody {
		body = &faultyBody{s: s, c: c, ctx: ctx, body: body, f: inBody}
	}
	return body, s.end(c, err)
}

type faultyBody struct {
	s    *Store
	c    Call
	ctx  context.Context
	body io.ReadCloser
	f    Fault
	off  int64
}

func (b *faultyBody) Read(p []byte) (int, error) {
	if b.f.Kind != Flip {
		if b.off == b.f.At && b.f.Kind == Reset {
			return 0, b.s.fail(b.c, objstore.ErrTransient, errReset)
		}
		if b.off == b.f.At {
			return 0, b.s.hang(b.ctx, b.c)
		}
		p = p[:min(int64(len(p)), b.f.At-b.off)]
	}
	n, err := b.body.Read(p)
	if at := b.f.At - b.off; b.f.Kind == Flip && 0 <= at && at < int64(n) {
		p[at] ^= 1
	}
	b.off += int64(n)
	return n, err
}

// Close closes the body below.
func (b *faultyBody) Close() error { return b.body.Close() }

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (info objstore.ObjectInfo, err error) {
	c, f := s.begin("head", key)
	err = s.around(ctx, c, f, func() error {
		info, err = s.inner.Head(ctx, key)
		return err
	})
	return info, s.end(c, err)
}

// Delete implements objstore.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) []error {
	errs := make([]error, len(keys))
	for i, key := range keys {
		c, f := s.begin("delete", key)
		errs[i] = s.end(c, s.around(ctx, c, f, func() error { return s.inner.Delete(ctx, key)[0] }))
	}
	return errs
}

// List implements objstore.Store. Reset breaks the listing after At objects.
func (s *Store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[objstore.ObjectInfo, error] {
	return func(yield func(objstore.ObjectInfo, error) bool) {
		c, f := s.begin("list", prefix)
		left := int64(-1)
		if f.Kind == Reset {
			left, f = f.At, Fault{}
		}
		if err := s.end(c, s.around(ctx, c, f, func() error { return nil })); err != nil {
			yield(objstore.ObjectInfo{}, err)
			return
		}
		for info, err := range s.inner.List(ctx, prefix, startAfter) {
			if left == 0 {
				yield(objstore.ObjectInfo{}, s.fail(c, objstore.ErrTransient, errReset))
				return
			}
			left--
			if !yield(info, err) {
				return
			}
		}
	}
}

// Copy implements objstore.Store.
func (s *Store) Copy(ctx context.Context, src, dst string, o objstore.CopyOptions) (info objstore.ObjectInfo, err error) {
	c, f := s.begin("copy", src)
	err = s.around(ctx, c, f, func() error {
		info, err = s.inner.Copy(ctx, src, dst, o)
		return err
	})
	return info, s.end(c, err)
}
