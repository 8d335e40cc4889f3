package objstore_test

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/faulty"
	"github.com/firnlog/firn/tiering/objstore/mem"
	"github.com/firnlog/firn/tiering/objstore/storetest"
)

// careless overwrites whatever the condition says, as some stores do.
type careless struct{ objstore.Store }

func (c careless) Put(ctx context.Context, key string, b io.ReaderAt, size int64, _ objstore.PutOptions) (objstore.ObjectInfo, error) {
	return c.Store.Put(ctx, key, b, size, objstore.PutOptions{})
}

func TestProbe(t *testing.T) {
	inner := mem.New()
	c, err := objstore.Probe(t.Context(), inner, "probe")
	require.NoError(t, err)
	require.True(t, c.Vouches)

	_, err = objstore.Probe(t.Context(), careless{inner}, "probe")
	require.ErrorIs(t, err, objstore.ErrInvalid)
	require.ErrorContains(t, err, "If-None-Match")

	for _, op := range []string{"put", "get", "head", "delete"} {
		_, err = objstore.Probe(t.Context(), faulty.Wrap(inner, first(1, op, faulty.Fault{Kind: faulty.Unavailable})), "probe-"+op)
		require.ErrorIs(t, err, objstore.ErrTransient, op)
	}
	keys, err := storetest.Keys(t.Context(), inner, "", "")
	require.NoError(t, err)
	require.Equal(t, []string{"probe-delete"}, keys, "it cleans up where it can")
}
