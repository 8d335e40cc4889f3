package archive_test

import (
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/internal/testminio"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/archive"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/layout"
	"github.com/firnlog/firn/tiering/objstore/s3"
	"github.com/firnlog/firn/tiering/objstore/storetest"
)

func TestMain(m *testing.M) { testminio.Main(m) }

// A MinIO that freezes in the middle of things, twice, and thaws: everything
// arrives, and what is committed is in the bucket byte for byte.
func TestFrozenMinIO(t *testing.T) {
	server := testminio.Shared(t)
	store, err := s3.Open(t.Context(), s3.Options{
		Endpoint: "http://" + server.Addr, Bucket: server.Bucket(t), PathStyle: true, AccessKey: server.AccessKey, SecretKey: server.SecretKey,
	})
	require.NoError(t, err)
	failed := make(chan struct{}, 1000)
	retrying := objstore.WithRetries(store, objstore.RetryOptions{
		Attempts: 2, BaseDelay: 10 * time.Millisecond, MaxDelay: 50 * time.Millisecond,
		Timeout: 200 * time.Millisecond, StallTimeout: 200 * time.Millisecond, MinRate: 1 << 20,
		Observe: func(a objstore.Attempt) {
			if a.Err != nil {
				select {
				case failed <- struct{}{}:
				default:
				}
			}
		},
	})
	n := newNode(8)
	lay, err := layout.New("", "cluster")
	require.NoError(t, err)
	a, err := archive.New(archive.Options{
		Partitions: n, Builder: n, Metadata: n, Stores: map[string]objstore.Store{"warm": retrying}, Layout: lay,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Interval: 50 * time.Millisecond, MinInterval: time.Millisecond,
		Machine: archive.MachineOptions{TargetBytes: 150, MinBackoff: 20 * time.Millisecond, MaxBackoff: 100 * time.Millisecond},
	})
	require.NoError(t, err)
	stop := start(a)
	defer stop()
	for end := record.Offset(20); end <= 60; end += 20 {
		n.seal(end)
		a.Poke()
		if end < 60 {
			require.NoError(t, server.Pause())
			for range 3 { // attempts have run into their deadlines
				<-failed
			}
			require.NoError(t, server.Resume())
		}
	}
	require.Eventually(t, func() bool { return a.Stats().Finished >= 8*6 && a.Stats().LagBytes == 0 }, 30*time.Second, 10*time.Millisecond)
	stop()
	n.requireRemote(t, 60)
	for tp := range n.sealed {
		for _, e := range n.meta.Parts[tp].Manifest.Live() {
			want := body(tp, e.Start, e.End)
			got, err := storetest.Get(t.Context(), store, lay.Object(e.Object), 0, int64(len(want)))
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
		}
	}
	require.NoError(t, store.Close())
}
