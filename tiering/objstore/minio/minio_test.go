package minio_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/internal/testminio"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/minio"
	"github.com/firnlog/firn/tiering/objstore/storetest"
)

func TestMain(m *testing.M) { testminio.Main(m) }

// TestStore runs the conformance suite against a real MinIO.
func TestStore(t *testing.T) {
	server := testminio.Shared(t)
	storetest.Suite{Large: 12<<20 + 17, Open: func(t *testing.T) objstore.Store {
		s, err := minio.Open(minio.Options{
			Endpoint: server.Addr, Bucket: server.Bucket(t),
			AccessKey: server.AccessKey, SecretKey: server.SecretKey, MultipartSize: 5 << 20,
		})
		require.NoError(t, err)
		return s
	}}.Run(t)
}
