package tiered

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/integration/harness"
)

// history are the sizes of the main test by driver, bytes written. The small
// ones are for the drivers' own sake.
var history = map[string]int64{"s3": 256 << 20, "minio": 64 << 20, "fs": 64 << 20}

const recordBytes = 4000

// TestHistory writes, sees the segments leave the disk, reads everything again
// from offset 0, by time, after a restart with an empty cache, and after a kill
// with a damaged one; then it takes the history away, bit by bit.
func TestHistory(t *testing.T) {
	for driver, size := range history {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			bk := bucketFor(t, driver)
			var set []string
			if driver == "fs" {
				set = append(set, "tier.compression.type=zstd")
			}
			b := start(t, bk, set...)
			const partitions = 3
			b.CreateTopic(t, "history", partitions, "remote.storage.enable", "true",
				"segment.bytes", "2097152", "local.retention.bytes", "1048576")
			l := harness.StartLoad(t, b, "history", harness.LoadOptions{Partitions: partitions, RecordBytes: recordBytes,
				Limit: size / recordBytes / partitions, Window: 1000, Rate: float64(size / recordBytes / partitions / 4)})
			l.Finish()
			awaitSettled(t, b, "history", time.Minute)
			l.Check(b, harness.CheckOptions{})
			cold := b.Metric("firn_cache_misses_total")
			require.Positive(t, cold, "nothing was read from the bucket")

			seekByTime(t, b, l, partitions)

			b.Stop()
			require.NoError(t, os.RemoveAll(filepath.Join(b.Opts.DataDir, "cache")))
			b.Start()
			l.Check(b, harness.CheckOptions{})
			require.Positive(t, b.Metric("firn_cache_misses_total"))

			b.Kill()
			spoil(t, filepath.Join(b.Opts.DataDir, "cache"))
			b.Start()
			l.Check(b, harness.CheckOptions{From: 7, Client: []kgo.Opt{kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxPartitionBytes(100_000)}})

			problems, objects := b.TierVerify("history")
			require.Empty(t, problems)
			require.Len(t, bk.objects(t), objects)

			deleteRecords(t, b, l, bk, objects)
			deleteTopic(t, b, bk)
		})
	}
}

// seekByTime finds records by their time in what is only in the bucket.
func seekByTime(t *testing.T, b *harness.Broker, l *harness.Load, partitions int32) {
	adm := b.AdminClient(t)
	for _, n := range []int64{0, 1, 777, 1500, 3001} {
		listed, err := adm.ListOffsetsAfterMilli(t.Context(), l.Time(n).UnixMilli(), "history")
		require.NoError(t, err)
		for p := range partitions {
			o, ok := listed.Lookup("history", p)
			require.True(t, ok)
			require.NoError(t, o.Err)
			require.Equal(t, n, o.Offset)
			require.Equal(t, l.Time(n).UnixMilli(), o.Timestamp)
		}
	}
}

// spoil overwrites the middle of every file of a cache.
func spoil(t *testing.T, dir string) {
	files := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() < 4096 {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		files++
		damage := make([]byte, 512)
		_, _ = rand.Read(damage) // never fails
		_, err = f.WriteAt(damage, info.Size()/2)
		return err
	})
	require.NoError(t, err)
	require.Positive(t, files, "the cache on disk is empty")
}

// deleteRecords raises the log start inside the cold part and sees the objects
// below it leave the bucket.
func deleteRecords(t *testing.T, b *harness.Broker, l *harness.Load, bk bucket, objects int) {
	adm := b.AdminClient(t)
	at := l.Ends()[0] / 2
	offsets := kadm.Offsets{}
	for p := range l.Ends() {
		offsets.AddOffset("history", p, at, -1)
	}
	deleted, err := adm.DeleteRecords(t.Context(), offsets)
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
	starts, _ := b.Ends(t, "history")
	for p := range l.Ends() {
		require.Equal(t, at, starts[p])
	}
	l.Check(b, harness.CheckOptions{From: at})
	c := b.Client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"history": {0: kgo.NewOffset().At(at - 1)}}), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	require.ErrorIs(t, c.PollFetches(t.Context()).Err(), kerr.OffsetOutOfRange)
	harness.Eventually(t, 30*time.Second, func() string {
		if have := len(bk.objects(t)); have > objects*2/3 {
			return fmt.Sprintf("%d of %d objects are still in the bucket", have, objects)
		}
		return ""
	})
	problems, _ := b.TierVerify("history")
	require.Empty(t, problems)
	l.Check(b, harness.CheckOptions{From: at})
}

func deleteTopic(t *testing.T, b *harness.Broker, bk bucket) {
	_, err := b.AdminClient(t).DeleteTopic(t.Context(), "history")
	require.NoError(t, err)
	awaitEmpty(t, bk)
}

func awaitEmpty(t *testing.T, bk bucket) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, func() string {
		if left := bk.objects(t); len(left) > 0 {
			return fmt.Sprintf("%d objects are still in the bucket", len(left))
		}
		return ""
	})
}

// TestRetention sees records pass their time in the bucket and leave it.
func TestRetention(t *testing.T) {
	t.Parallel()
	bk := bucketFor(t, "minio")
	b := start(t, bk)
	b.CreateTopic(t, "short", 1, "remote.storage.enable", "true", "segment.bytes", "1048576", "local.retention.bytes", "1048576")
	l := harness.StartLoad(t, b, "short", harness.LoadOptions{Partitions: 1, RecordBytes: recordBytes, Limit: 5000, Rate: 4000})
	l.Finish()
	awaitSettled(t, b, "short", time.Minute)
	require.NotEmpty(t, bk.objects(t))
	// The load's records are an hour old.
	altered, err := b.AdminClient(t).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{
		{Op: kadm.SetConfig, Name: "retention.ms", Value: kadm.StringPtr("60000")}}, "short")
	require.NoError(t, err)
	require.NoError(t, altered[0].Err)
	awaitEmpty(t, bk)
	starts, ends := b.Ends(t, "short")
	require.Equal(t, l.Ends(), ends)
	require.Equal(t, ends, starts, "Kafka deletes the whole log, and seals the active segment for it")
}

// TestRetentionBytes keeps the newest bytes of both tiers together.
func TestRetentionBytes(t *testing.T) {
	t.Parallel()
	bk := bucketFor(t, "s3")
	b := start(t, bk)
	const keep = 6 << 20
	b.CreateTopic(t, "sized", 1, "remote.storage.enable", "true", "segment.bytes", "1048576", "local.retention.bytes", "1048576",
		"retention.bytes", fmt.Sprint(keep))
	l := harness.StartLoad(t, b, "sized", harness.LoadOptions{Partitions: 1, RecordBytes: recordBytes, Limit: 6000, Rate: 4000})
	l.Finish()
	var start int64
	harness.Eventually(t, 30*time.Second, func() string {
		p := b.TierMap("sized").Partitions[0]
		start = p.LogStart
		// Whole segments and objects go: without the oldest there would be too little.
		kept, oldest := (p.LogEnd-start)*recordBytes, (p.Ranges[0].End-start)*recordBytes
		if kept-oldest > keep || len(bk.objects(t)) > keep>>20 {
			return fmt.Sprintf("%d bytes and %d objects are kept, the oldest of %d bytes", kept, len(bk.objects(t)), oldest)
		}
		return ""
	})
	require.Greater(t, start, int64(0))
	require.GreaterOrEqual(t, (l.Ends()[0]-start)*(recordBytes+100), int64(keep), "more was deleted than retention.bytes allows")
	l.Check(b, harness.CheckOptions{From: start})
}

// TestDamagedBucket loses one object and damages another: reads of the two fail,
// never with other records, and reads of the rest do not. A verification names
// both.
func TestDamagedBucket(t *testing.T) {
	t.Parallel()
	bk := bucketFor(t, "s3")
	b := start(t, bk)
	b.CreateTopic(t, "hurt", 1, "remote.storage.enable", "true", "segment.bytes", "1048576", "local.retention.bytes", "1048576")
	l := harness.StartLoad(t, b, "hurt", harness.LoadOptions{Partitions: 1, RecordBytes: recordBytes, Limit: 5000, Rate: 2000})
	l.Finish()
	m := awaitSettled(t, b, "hurt", time.Minute)
	var cold []rangeOf
	for _, r := range m.Partitions[0].Ranges {
		if r.InBucket && !r.OnDisk {
			cold = append(cold, rangeOf{r.Start, r.End, r.Object})
		}
	}
	require.Greater(t, len(cold), 6)
	missing, damaged := cold[2], cold[4]
	require.NoError(t, bk.store.Delete(t.Context(), missing.object)[0])
	flip(t, bk, damaged.object)
	b.Stop()
	require.NoError(t, os.RemoveAll(filepath.Join(b.Opts.DataDir, "cache")))
	b.Start()

	read := func(from int64) (offset int64, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c := b.Client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"hurt": {0: kgo.NewOffset().At(from)}}),
			kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.KeepRetryableFetchErrors(), kgo.FetchMaxPartitionBytes(50_000))
		defer c.Close()
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return -1, err
		}
		return fetches.Records()[0].Offset, nil
	}
	for _, sound := range []rangeOf{cold[0], cold[1], cold[3], cold[5]} {
		at, err := read(sound.start)
		require.NoError(t, err)
		require.Equal(t, sound.start, at)
	}
	for _, hurt := range []rangeOf{missing, damaged} {
		at, err := read((hurt.start + hurt.end) / 2)
		require.ErrorIs(t, err, kerr.KafkaStorageError, "offset %d came", at)
	}
	problems, _ := b.TierVerify("hurt")
	require.Len(t, problems, 2)
	named := map[string]string{problems[0].Object: problems[0].Problem, problems[1].Object: problems[1].Problem}
	require.Contains(t, named, missing.object)
	require.Contains(t, named, damaged.object)
	for _, p := range problems {
		require.Equal(t, "hurt", p.Topic)
	}
	l.Check(b, harness.CheckOptions{From: cold[5].start})
}

type rangeOf struct {
	start, end int64
	object     string
}
