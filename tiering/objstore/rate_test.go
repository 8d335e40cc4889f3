package objstore_test

import (
	"bytes"
	"context"
	"io"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/mem"
)

// Five mebibytes at one a second take four seconds: the first passes at once.
func TestRatesHoldBodiesToTheirPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		plain := mem.New()
		require.Same(t, objstore.Store(plain), objstore.WithRates(plain, math.MaxInt64, math.MaxInt64))
		s := objstore.WithRates(plain, 1<<20, 1<<20)
		data := bytes.Repeat([]byte("firn"), 5<<18)
		begin := time.Now()
		_, err := s.Put(ctx, "k", bytes.NewReader(data), int64(len(data)), objstore.PutOptions{})
		require.NoError(t, err)
		require.InDelta(t, 4, time.Since(begin).Seconds(), 0.1)
		begin = time.Now()
		body, err := s.GetRange(ctx, "k", 0, int64(len(data)))
		require.NoError(t, err)
		got, err := io.ReadAll(body)
		require.NoError(t, err)
		require.NoError(t, body.Close())
		require.True(t, bytes.Equal(data, got))
		require.InDelta(t, 4, time.Since(begin).Seconds(), 0.1)
		// Who gives up is not held.
		gone, cancel := context.WithCancel(ctx)
		cancel()
		_, err = s.Put(gone, "other", bytes.NewReader(data), int64(len(data)), objstore.PutOptions{})
		require.Error(t, err)
	})
}
