package objstore

import (
	"context"
	"io"
	"math"

	"golang.org/x/time/rate"
)

// rateBurst is the most that passes at once, in bytes: what a store's client reads
// of a body at a time fits into it.
const rateBurst = 1 << 20

// rated holds the bodies of a store to a pace.
type rated struct {
	Store
	put, get *rate.Limiter // nil: as fast as it goes
}

// WithRates returns s with all its uploads together held to put bytes per second,
// and all its reads to get. math.MaxInt64 is no bound. It belongs below
// WithRetries, whose StallTimeout must exceed the time that one mebibyte takes.
func WithRates(s Store, put, get int64) Store {
	if put == math.MaxInt64 && get == math.MaxInt64 {
		return s
	}
	return &rated{Store: s, put: limiter(put), get: limiter(get)}
}

func limiter(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond == math.MaxInt64 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bytesPerSecond), rateBurst)
}

// wait takes n bytes from the pace, in pieces that fit its burst.
func wait(ctx context.Context, l *rate.Limiter, n int) error {
	for n > 0 {
		piece := min(n, rateBurst)
		if err := l.WaitN(ctx, piece); err != nil {
			return err
		}
		n -= piece
	}
	return nil
}

// Put implements Store.
func (s *rated) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o PutOptions) (ObjectInfo, error) {
	if s.put != nil {
		body = ratedReaderAt{ctx, body, s.put}
	}
	return s.Store.Put(ctx, key, body, size, o)
}

// GetRange implements Store.
func (s *rated) GetRange(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	body, err := s.Store.GetRange(ctx, key, off, length)
	if err != nil || s.get == nil {
		return body, err
	}
	return &ratedBody{ReadCloser: body, ctx: ctx, pace: s.get}, nil
}

type ratedReaderAt struct {
	ctx  context.Context
	body io.ReaderAt
	pace *rate.Limiter
}

// ReadAt implements io.ReaderAt.
func (r ratedReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if err := wait(r.ctx, r.pace, len(p)); err != nil {
		return 0, err
	}
	return r.body.ReadAt(p, off)
}

type ratedBody struct {
	io.ReadCloser
	ctx  context.Context
	pace *rate.Limiter
}

// Read implements io.Reader.
func (r *ratedBody) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if n > 0 {
		if waited := wait(r.ctx, r.pace, n); waited != nil {
			return n, waited
		}
	}
	return n, err
}
