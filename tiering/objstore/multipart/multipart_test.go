package multipart_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/multipart"
	"github.com/firnlog/firn/tiering/objstore/storetest"
)

// target keeps parts in memory.
type target struct {
	mu        sync.Mutex
	parts     map[int32][]byte
	failPart  int32
	whole     []byte
	aborted   bool
	abortErr  error
	completed bool
}

func (t *target) Begin(context.Context) (string, error) { return "id", nil }

func (t *target) Upload(ctx context.Context, _ string, p multipart.Part, body *io.SectionReader) (string, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return "", err
	}
	if p.Number == t.failPart {
		return "", objstore.ErrTransient
	}
	if objstore.ChecksumOf(b) != p.Checksum {
		return "", objstore.ErrChecksum
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.parts[p.Number] = b
	return fmt.Sprint("etag", p.Number), ctx.Err()
}

func (t *target) Complete(_ context.Context, _ string, parts []multipart.Part, size int64, sum objstore.Checksum) error {
	for i, p := range parts {
		if p.Number != int32(i+1) || p.ETag != fmt.Sprint("etag", p.Number) {
			return fmt.Errorf("part %d is %+v", i, p)
		}
		t.whole = append(t.whole, t.parts[p.Number]...)
	}
	if int64(len(t.whole)) != size || objstore.ChecksumOf(t.whole) != sum {
		return objstore.ErrChecksum
	}
	t.completed = true
	return nil
}

func (t *target) Abort(ctx context.Context, _ string) error {
	t.aborted = true
	return errors.Join(ctx.Err(), t.abortErr)
}

var options = multipart.Options{PartSize: 1000, Concurrency: 3, AbortWithin: time.Second}

func TestUpload(t *testing.T) {
	for _, size := range []int64{0, 1, 999, 1000, 1001, 12_345} {
		body := storetest.Body(1, size)
		to := &target{parts: map[int32][]byte{}}
		sum, err := multipart.Upload(t.Context(), to, bytes.NewReader(body), size, objstore.ChecksumOf(body), options)
		require.NoError(t, err, size)
		require.Equal(t, objstore.ChecksumOf(body), sum)
		require.True(t, bytes.Equal(body, to.whole))
		require.False(t, to.aborted)
	}
}

// More bytes than 10,000 parts of the asked size hold make larger parts.
func TestPartsAreBounded(t *testing.T) {
	to := &target{parts: map[int32][]byte{}}
	body := storetest.Body(1, 25_000)
	_, err := multipart.Upload(t.Context(), to, bytes.NewReader(body), 25_000, objstore.Checksum{}, multipart.Options{PartSize: 2, Concurrency: 4, AbortWithin: time.Second})
	require.NoError(t, err)
	require.LessOrEqual(t, len(to.parts), 10_000)
}

// Every failure aborts the upload, so that its parts do not stay in the bucket.
func TestFailuresAbort(t *testing.T) {
	body := storetest.Body(1, 5000)
	for name, c := range map[string]struct {
		to     *target
		size   int64
		sum    objstore.Checksum
		cancel bool
		want   error
	}{
		"a part fails":       {&target{failPart: 3}, 5000, objstore.Checksum{}, false, objstore.ErrTransient},
		"wrong checksum":     {&target{}, 5000, objstore.CRC32C(7), false, objstore.ErrChecksum},
		"body too short":     {&target{}, 6000, objstore.Checksum{}, false, objstore.ErrInvalid},
		"cancelled":          {&target{}, 5000, objstore.Checksum{}, true, context.Canceled},
		"and the abort, too": {&target{failPart: 1, abortErr: io.ErrClosedPipe}, 5000, objstore.Checksum{}, false, io.ErrClosedPipe},
	} {
		t.Run(name, func(t *testing.T) {
			c.to.parts = map[int32][]byte{}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.cancel {
				cancel()
			}
			_, err := multipart.Upload(ctx, c.to, bytes.NewReader(body), c.size, c.sum, options)
			require.ErrorIs(t, err, c.want)
			require.True(t, c.to.aborted)
			require.False(t, c.to.completed)
		})
	}
}
