package s3_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/internal/testminio"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/s3"
	"github.com/firnlog/firn/tiering/objstore/storetest"
	"github.com/firnlog/firn/tiering/objstore/storetest/faultproxy"
)

func TestMain(m *testing.M) { testminio.Main(m) }

func open(t testing.TB, server *testminio.Server, addr, bucket string) objstore.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), s3.Options{
		Endpoint: "http://" + addr, Bucket: bucket, PathStyle: true,
		AccessKey: server.AccessKey, SecretKey: server.SecretKey, MultipartSize: 5 << 20,
	})
	require.NoError(t, err)
	return s
}

// TestStore runs the conformance suite against a real MinIO.
func TestStore(t *testing.T) {
	server := testminio.Shared(t)
	storetest.Suite{Large: 12<<20 + 17, Open: func(t *testing.T) objstore.Store {
		return open(t, server, server.Addr, server.Bucket(t))
	}}.Run(t)
}

// TestFaults: what goes wrong between the driver and a real MinIO.
func TestFaults(t *testing.T) {
	server := testminio.Shared(t)
	proxy := faultproxy.New(server.Addr)
	defer proxy.Close()
	bucket := server.Bucket(t)
	direct, through := open(t, server, server.Addr, bucket), open(t, server, proxy.Addr, bucket)
	defer func() { require.NoError(t, direct.Close()) }()
	defer func() { require.NoError(t, through.Close()) }()
	proxy.Run(t, direct, through, 5<<20)
}

// A missing bucket and wrong credentials are told apart from an outage.
func TestMistakes(t *testing.T) {
	server := testminio.Shared(t)
	_, err := open(t, server, server.Addr, "no-such-bucket").Put(t.Context(), "k", emptyBody{}, 0, objstore.PutOptions{})
	require.ErrorIs(t, err, objstore.ErrNotExist)
	require.ErrorContains(t, err, "NoSuchBucket")
	stranger := testminio.Server{AccessKey: server.AccessKey}
	stranger.SecretKey = "hunter2hunter2"
	_, err = open(t, &stranger, server.Addr, server.Bucket(t)).Head(t.Context(), "k")
	require.ErrorIs(t, err, objstore.ErrDenied)
	require.NotContains(t, err.Error(), "hunter2")
}

// A fresh server has no bucket; the store can make it, and passes the probe.
func TestCreateBucket(t *testing.T) {
	server := testminio.Shared(t)
	s := open(t, server, server.Addr, "fresh-bucket-s3")
	creator, ok := s.(objstore.BucketCreator)
	require.True(t, ok)
	require.NoError(t, creator.CreateBucket(t.Context()))
	require.NoError(t, creator.CreateBucket(t.Context()), "a second time")
	c, err := objstore.Probe(t.Context(), s, "probe/x")
	require.NoError(t, err)
	require.True(t, c.Vouches)
}

// BenchmarkGet reads ranges of 4 MiB in parallel, as a catch-up read does.
func BenchmarkGet(b *testing.B) {
	server := testminio.Shared(b)
	storetest.BenchmarkGet(b, open(b, server, server.Addr, server.Bucket(b)))
}

type emptyBody struct{}

func (emptyBody) ReadAt([]byte, int64) (int, error) { return 0, nil }
