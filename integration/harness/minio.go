package harness

import (
	"fmt"
	"testing"

	"github.com/firnlog/firn/internal/testminio"
)

// Bucket is a bucket of a test's own on a MinIO, and how a broker reaches it.
type Bucket struct {
	Name string
	Env  []string // credentials, for Options.Env
}

// NewBucket makes a bucket on the test process's MinIO, whose TestMain must stop
// it (testminio.StopShared in Main).
func NewBucket(t testing.TB) (Bucket, *testminio.Server) {
	t.Helper()
	s := testminio.Shared(t)
	return BucketOn(t, s), s
}

// BucketOn makes a bucket on a MinIO.
func BucketOn(t testing.TB, s *testminio.Server) Bucket {
	t.Helper()
	return Bucket{Name: s.Bucket(t), Env: []string{
		"AWS_ACCESS_KEY_ID=" + s.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s.SecretKey, "AWS_REGION=us-east-1",
	}}
}

// S3 is the URL of the bucket for the s3 driver, by the server at addr: the
// MinIO, or a proxy in front of it.
func (b Bucket) S3(addr string) string {
	return fmt.Sprintf("s3://%s?endpoint=http://%s&region=us-east-1", b.Name, addr)
}

// MinIO is the same for the minio driver.
func (b Bucket) MinIO(addr string) string {
	return fmt.Sprintf("minio://%s/%s?secure=false&region=us-east-1", addr, b.Name)
}
