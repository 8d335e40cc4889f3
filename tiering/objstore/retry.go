package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"time"
)

// RetryOptions tune Retrying. The zero value takes every default.
type RetryOptions struct {
	// Attempts of one call, the first included; default 6.
	Attempts int
	// The wait before retry n is random between 0 and BaseDelay·2ⁿ⁻¹, at
	// most MaxDelay. Defaults 100 ms and 10 s.
	BaseDelay, MaxDelay time.Duration
	// Timeout of one attempt at a call without a body, and of a GetRange
	// until its body begins; default 30 s.
	Timeout time.Duration
	// StallTimeout ends an attempt whose body makes no progress; default 30 s.
	StallTimeout time.Duration
	// MinRate is the slowest upload worth waiting for, bytes per second: an
	// attempt at a Put may take Timeout + size/MinRate. Default 256 KiB/s.
	MinRate int64
	// PutTimeout bounds an attempt at a Put, whatever its size; 0 leaves it to
	// MinRate.
	PutTimeout time.Duration
	// Budget limits retries over all calls; default one of 100.
	Budget *Budget
	// Observe, when set, hears of every attempt, on the caller's goroutine.
	// It must return quickly.
	Observe func(Attempt)
}

// Attempt is one attempt at a call, for metrics.
type Attempt struct {
	Op       string // as in OpError
	Try      int    // from 1
	Duration time.Duration
	Bytes    int64 // of the body, where the attempt succeeded
	Err      error // nil when it succeeded
	Retrying bool  // whether another attempt follows
}

func (o *RetryOptions) fill() {
	setDefault(&o.Attempts, 6)
	setDefault(&o.BaseDelay, 100*time.Millisecond)
	setDefault(&o.MaxDelay, 10*time.Second)
	setDefault(&o.Timeout, 30*time.Second)
	setDefault(&o.StallTimeout, 30*time.Second)
	setDefault(&o.MinRate, 256<<10)
	if o.Budget == nil {
		o.Budget = NewBudget(defaultBurst)
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// PutDeadline is how long one attempt at a Put of size bytes may take. The
// grace before deletion of an object nobody names must exceed it.
func (o RetryOptions) PutDeadline(size int64) time.Duration {
	o.fill()
	deadline := o.Timeout + time.Duration(float64(size)/float64(o.MinRate)*float64(time.Second))
	if o.PutTimeout > 0 {
		deadline = min(deadline, o.PutTimeout)
	}
	return deadline
}

// Retrying is a Store that gives each call several attempts, each with its
// own deadline and a watchdog on its body, with exponential backoff and full
// jitter, under a budget. It resumes a broken GetRange where it broke, and a
// broken List after the last key.
//
// A conditional Put that failed in doubt and then finds its key taken looks
// at the object: with its own size and checksum it was its own earlier attempt
// that succeeded, and so did the Put.
type Retrying struct {
	inner Store
	o     RetryOptions
}

var _ Store = (*Retrying)(nil)

// WithRetries wraps a driver.
func WithRetries(s Store, o RetryOptions) *Retrying {
	o.fill()
	return &Retrying{inner: s, o: o}
}

func (r *Retrying) String() string { return r.inner.String() }

// Close closes the driver.
func (r *Retrying) Close() error { return r.inner.Close() }

var (
	errAttemptTimeout = errors.New("the attempt timed out")
	errStalled        = errors.New("the body made no progress")
)

// attempt runs fn under a deadline (0: none) and a watchdog that fn's bodies feed.
func (r *Retrying) attempt(ctx context.Context, op, key string, deadline time.Duration, fn func(context.Context, *watchdog) error) error {
	attemptCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if deadline > 0 {
		timer := time.AfterFunc(deadline, func() { cancel(fmt.Errorf("%w after %v", errAttemptTimeout, deadline)) })
		defer timer.Stop()
	}
	dog := newWatchdog(r.o.StallTimeout, cancel)
	defer dog.stop()
	return r.own(ctx, attemptCtx, op, key, fn(attemptCtx, dog))
}

// own turns an error that came of the attempt's context, but not of the
// caller's, into a transient one that names the cause.
func (r *Retrying) own(ctx, attemptCtx context.Context, op, key string, err error) error {
	if err == nil || ctx.Err() != nil || attemptCtx.Err() == nil || ContextErr(err) == nil {
		return err
	}
	return &OpError{Op: op, Store: r.String(), Key: key, Kind: ErrTransient, Err: context.Cause(attemptCtx)}
}

// do makes attempts at one call until one succeeds or none is left.
func (r *Retrying) do(ctx context.Context, op, key string, deadline time.Duration, fn func(ctx context.Context, try int, dog *watchdog) (int64, error)) error {
	if err := r.ended(ctx, op, key); err != nil {
		return err
	}
	for try := 1; ; try++ {
		start := time.Now()
		var bytes int64
		err := r.attempt(ctx, op, key, deadline, func(ctx context.Context, dog *watchdog) (err error) {
			bytes, err = fn(ctx, try, dog)
			return err
		})
		again := err != nil && r.mayRetry(ctx, err, try)
		r.observe(Attempt{Op: op, Try: try, Duration: time.Since(start), Bytes: bytes, Err: err, Retrying: again})
		if !again {
			return err
		}
		if sleepErr := r.backoff(ctx, try); sleepErr != nil {
			return fmt.Errorf("%w (gave up waiting: %w)", err, sleepErr)
		}
	}
}

// ended is the context's error as an operation's, or nil.
func (r *Retrying) ended(ctx context.Context, op, key string) error {
	if err := ctx.Err(); err != nil {
		return &OpError{Op: op, Store: r.String(), Key: key, Err: err}
	}
	return nil
}

func (r *Retrying) observe(a Attempt) {
	if a.Err == nil {
		r.o.Budget.succeeded()
	}
	if r.o.Observe != nil {
		r.o.Observe(a)
	}
}

func (r *Retrying) mayRetry(ctx context.Context, err error, try int) bool {
	return ctx.Err() == nil && Retryable(err) && try < r.o.Attempts && r.o.Budget.take(time.Now())
}

// backoff waits before the retry that follows attempt number try.
func (r *Retrying) backoff(ctx context.Context, try int) error {
	limit := r.o.MaxDelay
	if shift := try - 1; shift < 30 {
		limit = min(limit, r.o.BaseDelay<<shift)
	}
	timer := time.NewTimer(time.Duration(rand.Int64N(int64(limit) + 1)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Put implements Store.
func (r *Retrying) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o PutOptions) (ObjectInfo, error) {
	if o.IfAbsent && !o.Checksum.Valid() && size >= 0 {
		sum, _, err := ChecksumReader(io.NewSectionReader(body, 0, size))
		if err != nil {
			return ObjectInfo{}, &OpError{Op: "put", Store: r.String(), Key: key, Kind: ErrInvalid, Err: fmt.Errorf("read body: %w", err)}
		}
		o.Checksum = sum
	}
	var info ObjectInfo
	doubt := false // an earlier attempt may have succeeded unseen
	err := r.do(ctx, "put", key, r.o.PutDeadline(size), func(ctx context.Context, _ int, dog *watchdog) (int64, error) {
		var err error
		info, err = r.inner.Put(ctx, key, watchedReaderAt{body, dog}, size, o)
		if doubt && errors.Is(err, ErrExists) {
			info, err = r.mine(ctx, key, size, o.Checksum, err)
		}
		doubt = doubt || err != nil
		return size, err
	})
	return info, err
}

// mine decides whether the object that took our key is our own.
func (r *Retrying) mine(ctx context.Context, key string, size int64, sum Checksum, exists error) (ObjectInfo, error) {
	info, err := Verify(ctx, r.inner, key, size, sum, false)
	if errors.Is(err, ErrChecksum) {
		return info, exists
	}
	return info, err
}

// Head implements Store.
func (r *Retrying) Head(ctx context.Context, key string) (info ObjectInfo, err error) {
	err = r.do(ctx, "head", key, r.o.Timeout, func(ctx context.Context, _ int, _ *watchdog) (int64, error) {
		info, err = r.inner.Head(ctx, key)
		return 0, err
	})
	return info, err
}

// Copy implements Store.
func (r *Retrying) Copy(ctx context.Context, src, dst string, o CopyOptions) (info ObjectInfo, err error) {
	err = r.do(ctx, "copy", src, r.o.Timeout, func(ctx context.Context, _ int, _ *watchdog) (int64, error) {
		info, err = r.inner.Copy(ctx, src, dst, o)
		return info.Size, err
	})
	return info, err
}

// Delete implements Store. Only the keys that failed are tried again.
func (r *Retrying) Delete(ctx context.Context, keys ...string) []error {
	errs := make([]error, len(keys))
	left := make([]int, len(keys)) // indexes of keys still to delete
	for i := range left {
		left[i] = i
	}
	if len(keys) == 0 {
		return errs
	}
	// The error of the call as a whole is one that is worth a retry, if any;
	// errs keeps each key's own.
	if err := r.ended(ctx, "delete", keys[0]); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	_ = r.do(ctx, "delete", keys[0], r.o.Timeout, func(attemptCtx context.Context, _ int, _ *watchdog) (int64, error) {
		now := make([]string, len(left))
		for i, k := range left {
			now[i] = keys[k]
		}
		var again []int
		var worth, last error
		for i, err := range r.inner.Delete(attemptCtx, now...) {
			err = r.own(ctx, attemptCtx, "delete", now[i], err)
			errs[left[i]] = err
			if err != nil {
				last = err
			}
			if Retryable(err) {
				worth, again = err, append(again, left[i])
			}
		}
		left = again
		if worth != nil {
			return 0, worth
		}
		return 0, last
	})
	return errs
}

// List implements Store.
func (r *Retrying) List(ctx context.Context, prefix, startAfter string) iter.Seq2[ObjectInfo, error] {
	return func(yield func(ObjectInfo, error) bool) {
		stopped := false
		err := r.do(ctx, "list", prefix, 0, func(ctx context.Context, _ int, dog *watchdog) (int64, error) {
			dog.feed()
			for info, err := range r.inner.List(ctx, prefix, startAfter) {
				if err != nil {
					return 0, err
				}
				startAfter = info.Key
				dog.rest() // the caller's time is not the store's
				if !yield(info, nil) {
					stopped = true
					return 0, nil
				}
				dog.feed()
			}
			return 0, nil
		})
		if err != nil && !stopped {
			yield(ObjectInfo{}, err)
		}
	}
}

// GetRange implements Store. The reader it returns retries, too.
func (r *Retrying) GetRange(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	b := &resumingBody{r: r, ctx: ctx, key: key, off: off, left: length, try: 1}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}
