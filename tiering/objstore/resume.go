package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// watchdog ends an attempt that makes no progress for a time. It sleeps until
// first fed. Its methods are safe for concurrent use.
type watchdog struct {
	after time.Duration
	timer *time.Timer
}

func newWatchdog(after time.Duration, cancel context.CancelCauseFunc) *watchdog {
	d := &watchdog{after: after}
	d.timer = time.AfterFunc(after, func() { cancel(fmt.Errorf("%w for %v", errStalled, after)) })
	d.timer.Stop()
	return d
}

func (d *watchdog) feed() { d.timer.Reset(d.after) }
func (d *watchdog) rest() { d.timer.Stop() }
func (d *watchdog) stop() { d.timer.Stop() }

// watchedReaderAt is an upload's body: reading it is progress.
type watchedReaderAt struct {
	body io.ReaderAt
	dog  *watchdog
}

// ReadAt implements io.ReaderAt.
func (w watchedReaderAt) ReadAt(p []byte, off int64) (int, error) {
	w.dog.feed()
	return w.body.ReadAt(p, off)
}

// resumingBody reads a range over as many attempts as it takes. Attempts that
// brought bytes do not count against the limit, only against the budget.
type resumingBody struct {
	r    *Retrying
	ctx  context.Context
	key  string
	off  int64 // of the next byte
	left int64
	try  int // attempts since the last byte, the present one included

	// The present attempt; body is nil between attempts and after the end.
	body    io.ReadCloser
	bodyCtx context.Context
	cancel  context.CancelCauseFunc
	dog     *watchdog
	began   time.Time
	got     int64
}

// open makes attempts until a body begins.
func (b *resumingBody) open() error {
	if err := b.r.ended(b.ctx, "get", b.key); err != nil {
		return err
	}
	for {
		err := b.openOnce()
		if err == nil {
			return nil
		}
		if err := b.retry(err); err != nil {
			return err
		}
	}
}

// openOnce makes one attempt. On success the attempt stays open.
func (b *resumingBody) openOnce() error {
	r := b.r
	b.began, b.got = time.Now(), 0
	b.bodyCtx, b.cancel = context.WithCancelCause(b.ctx)
	cancel := b.cancel
	deadline := time.AfterFunc(r.o.Timeout, func() { cancel(fmt.Errorf("%w after %v", errAttemptTimeout, r.o.Timeout)) })
	body, err := r.inner.GetRange(b.bodyCtx, b.key, b.off, b.left)
	if !deadline.Stop() && err == nil { // the context ended just when the body came
		err = errors.Join(context.Canceled, body.Close())
	}
	if err != nil {
		err = r.own(b.ctx, b.bodyCtx, "get", b.key, err)
		cancel(nil)
		return err
	}
	b.body, b.dog = body, newWatchdog(r.o.StallTimeout, cancel)
	return nil
}

// retry notes the end of an attempt by err, and waits before the next one. It
// returns an error when there shall be none.
func (b *resumingBody) retry(err error) error {
	again := b.r.mayRetry(b.ctx, err, b.try)
	b.r.observe(Attempt{Op: "get", Try: b.try, Duration: time.Since(b.began), Bytes: b.got, Err: err, Retrying: again})
	if !again {
		return err
	}
	if sleepErr := b.r.backoff(b.ctx, b.try); sleepErr != nil {
		return fmt.Errorf("%w (gave up waiting: %w)", err, sleepErr)
	}
	b.try++
	return nil
}

func (b *resumingBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, b.finish()
	}
	if b.body == nil {
		if err := b.open(); err != nil {
			return 0, err
		}
	}
	b.dog.feed()
	n, err := b.body.Read(p)
	b.dog.rest()
	b.off, b.left, b.got = b.off+int64(n), b.left-int64(n), b.got+int64(n)
	if n > 0 {
		b.try = 1
	}
	if b.left == 0 {
		// Here, since who knows the length does not read on to the end.
		b.r.observe(Attempt{Op: "get", Try: b.try, Duration: time.Since(b.began), Bytes: b.got})
		return n, nil
	}
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) { // a driver's mistake, but no reason to lose bytes
		err = &OpError{Op: "get", Store: b.r.String(), Key: b.key, Kind: ErrTransient, Err: io.ErrUnexpectedEOF}
	}
	err = b.r.own(b.ctx, b.bodyCtx, "get", b.key, err)
	if closeErr := b.closeBody(); closeErr != nil {
		err = errors.Join(err, closeErr)
	}
	return n, b.retry(err)
}

// finish ends a range that was read whole.
func (b *resumingBody) finish() error {
	if b.body == nil {
		return io.EOF
	}
	if err := b.closeBody(); err != nil {
		return err
	}
	return io.EOF
}

func (b *resumingBody) closeBody() error {
	if b.body == nil {
		return nil
	}
	b.dog.stop()
	err := b.body.Close()
	b.cancel(nil)
	b.body = nil
	return err
}

// Close frees the connection. A range that was not read whole is observed as
// neither success nor failure.
func (b *resumingBody) Close() error {
	err := b.closeBody()
	b.left = 0
	return err
}
