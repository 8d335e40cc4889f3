// Package multipart uploads one large object in parts over any S3 client. It
// owns the cutting, the order and the clean-up; the driver's Target makes the
// requests. It runs one goroutine per part in flight, all gone when Upload
// returns.
package multipart

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/tiering/objstore"
)

// Part is one finished part. Number counts from 1.
type Part struct {
	Number   int32
	ETag     string
	Checksum objstore.Checksum
}

// Target makes the requests of one upload.
type Target interface {
	Begin(ctx context.Context) (uploadID string, err error)
	// Upload sends one part, whose Number and Checksum are set, and returns its ETag.
	Upload(ctx context.Context, uploadID string, part Part, body *io.SectionReader) (etag string, err error)
	// Complete makes the object appear; the checksum is the whole object's.
	Complete(ctx context.Context, uploadID string, parts []Part, size int64, sum objstore.Checksum) error
	Abort(ctx context.Context, uploadID string) error
}

// Options say how an object is cut. All fields are required.
type Options struct {
	PartSize    int64         // bytes, at least 5 MiB (S3's minimum); raised where 10,000 parts would not do
	Concurrency int           // parts in flight
	AbortWithin time.Duration // time for the clean-up after a failure
}

const maxParts = 10_000 // S3's limit

// Upload sends body. When want is valid and the bytes differ from it, nothing
// appears and the error is objstore.ErrChecksum. After a failure the upload is
// aborted, also when ctx is done; parts that this cannot reach are left to the
// bucket's AbortIncompleteMultipartUpload rule.
func Upload(ctx context.Context, t Target, body io.ReaderAt, size int64, want objstore.Checksum, o Options) (sum objstore.Checksum, err error) {
	id, err := t.Begin(ctx)
	if err != nil {
		return objstore.Checksum{}, err
	}
	defer func() {
		if err == nil {
			return
		}
		abortCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.AbortWithin)
		defer cancel()
		if abortErr := t.Abort(abortCtx, id); abortErr != nil {
			err = errors.Join(err, fmt.Errorf("abort upload: %w", abortErr))
		}
	}()
	parts, sum, err := sendParts(ctx, t, id, body, size, o)
	if err != nil {
		return objstore.Checksum{}, err
	}
	if want.Valid() && want != sum {
		return objstore.Checksum{}, fmt.Errorf("%w: body is %v, want %v", objstore.ErrChecksum, sum, want)
	}
	return sum, t.Complete(ctx, id, parts, size, sum)
}

func sendParts(ctx context.Context, t Target, id string, body io.ReaderAt, size int64, o Options) ([]Part, objstore.Checksum, error) {
	partSize := max(o.PartSize, (size+maxParts-1)/maxParts)
	count := max(1, (size+partSize-1)/partSize)
	parts := make([]Part, count)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(o.Concurrency)
	for i := range parts {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			off := int64(i) * partSize
			section := io.NewSectionReader(body, off, min(partSize, size-off))
			sum, n, err := objstore.ChecksumReader(section)
			if err == nil && n != section.Size() {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return fmt.Errorf("%w: read body of part %d: %w", objstore.ErrInvalid, i+1, err)
			}
			if _, err := section.Seek(0, io.SeekStart); err != nil {
				return err
			}
			parts[i] = Part{Number: int32(i + 1), Checksum: sum}
			parts[i].ETag, err = t.Upload(ctx, id, parts[i], section)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, objstore.Checksum{}, err
	}
	sum := objstore.ChecksumOf(nil)
	for i, p := range parts {
		off := int64(i) * partSize
		sum = sum.Join(p.Checksum, min(partSize, size-off))
	}
	return parts, sum, nil
}
