package tiered

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/harness"
	"github.com/firnlog/firn/internal/testminio"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/location"
)

func TestMain(m *testing.M) { harness.Main(m, testminio.StopShared) }

// bucket is a store as the broker sees it and as the test does.
type bucket struct {
	url   string
	env   []string
	store objstore.Store
}

// bucketFor makes an empty store for a driver: fs, s3 or minio.
func bucketFor(t *testing.T, driver string) bucket {
	t.Helper()
	b := bucket{url: "fs://" + filepath.Join(t.TempDir(), "bucket")}
	var o location.Options
	if driver != "fs" {
		bk, s := harness.NewBucket(t)
		b.env, o = bk.Env, location.Options{AccessKey: s.AccessKey, SecretKey: s.SecretKey}
		b.url = bk.S3(s.Addr)
		if driver == "minio" {
			b.url = bk.MinIO(s.Addr)
		}
	}
	l, err := location.Parse(b.url)
	require.NoError(t, err)
	b.store, err = l.Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.store.Close()) })
	return b
}

// objects are the keys of the segment objects in the bucket.
func (b bucket) objects(t *testing.T) []string {
	t.Helper()
	var keys []string
	for o, err := range b.store.List(t.Context(), "", "") {
		require.NoError(t, err)
		if strings.Contains(o.Key, "/data/") {
			keys = append(keys, o.Key)
		}
	}
	return keys
}

// start runs a broker on a bucket that looks often for what to move and delete.
func start(t *testing.T, b bucket, set ...string) *harness.Broker {
	t.Helper()
	return harness.Start(t, harness.Options{Store: b.url, Env: b.env, Set: append([]string{
		"log.retention.check.interval.ms=200", "remote.log.manager.task.interval.ms=200", "tier.delete.grace.ms=1000",
		"cache.memory.bytes=16777216", "cache.disk.bytes=33554432",
	}, set...)})
}

// segmentFiles are the bytes of log segments of a topic on the broker's disk, by
// the directory and not by what the broker says.
func segmentFiles(t *testing.T, b *harness.Broker, topicID string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(b.Opts.DataDir, topicID), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".log" {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return ignoreGone(err)
	})
	require.NoError(t, err)
	return bytes
}

// ignoreGone forgives files that the broker deletes while they are listed.
func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// awaitSettled waits until all but the last segments of a topic are in the
// bucket alone, and holds the tier map against the disk.
func awaitSettled(t *testing.T, b *harness.Broker, topic string, limit time.Duration) adminapi.TierMap {
	t.Helper()
	var m adminapi.TierMap
	harness.Eventually(t, limit, func() string {
		m = b.TierMap(topic)
		for _, p := range m.Partitions {
			local := int64(0)
			for _, r := range p.Ranges {
				if r.OnDisk {
					local += r.Bytes
				}
			}
			if local > 3<<20 || p.RemoteEnd == 0 {
				return fmt.Sprintf("partition %d has %d bytes on disk, the bucket holds it up to %d of %d", p.Partition, local, p.RemoteEnd, p.LogEnd)
			}
		}
		if onDisk := segmentFiles(t, b, m.TopicID); onDisk > int64(len(m.Partitions))*3<<20 {
			return fmt.Sprintf("%d bytes of segments are still in the directory", onDisk)
		}
		return ""
	})
	for _, p := range m.Partitions {
		require.LessOrEqual(t, p.LogStart, p.LocalStart)
		require.LessOrEqual(t, p.LocalStart, p.RemoteEnd)
		require.LessOrEqual(t, p.RemoteEnd, p.LastStable)
		require.LessOrEqual(t, p.LastStable, p.HighWatermark)
		require.LessOrEqual(t, p.HighWatermark, p.LogEnd)
		next := p.LogStart // the ranges leave no hole
		for _, r := range p.Ranges {
			require.LessOrEqual(t, r.Start, next, "offsets %d to %d of partition %d are nowhere", next, r.Start, p.Partition)
			next = max(next, r.End)
		}
		require.Equal(t, p.LogEnd, next)
	}
	return m
}

// flip changes one bit in the middle of an object, under the store's own
// checksums: the bytes rot before they are stored.
func flip(t *testing.T, b bucket, key string) {
	t.Helper()
	info, err := b.store.Head(t.Context(), key)
	require.NoError(t, err)
	body, err := b.store.GetRange(t.Context(), key, 0, info.Size)
	require.NoError(t, err)
	defer body.Close()
	bytes, err := io.ReadAll(body)
	require.NoError(t, err)
	bytes[len(bytes)/2] ^= 1
	_, err = b.store.Put(t.Context(), key, strings.NewReader(string(bytes)), int64(len(bytes)), objstore.PutOptions{})
	require.NoError(t, err)
}
