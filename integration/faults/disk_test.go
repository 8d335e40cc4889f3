package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/integration/harness"
)

// TestPowerLoss drops what was not synced, again and again, under load: on topics
// with durability=fsync what was acked survives, and so do committed offsets and
// topics.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	d := harness.NewDisk(t, 1<<30)
	b := harness.New(t, harness.Options{DataDir: filepath.Join(d.Dir, "data"), Store: "fs://" + filepath.Join(t.TempDir(), "bucket"),
		Set: []string{"offsets.topic.num.partitions=3", "log.retention.check.interval.ms=200", "remote.log.manager.task.interval.ms=200"},
		// Pebble panics when its disk fails, as it has to.
		MayPanic: "panic: pebble: "})
	b.Start()
	b.CreateTopic(t, "fsync", 4, tiered("durability", "fsync")...)
	l := harness.StartLoad(t, b, "fsync", harness.LoadOptions{Partitions: 4, RecordBytes: 2000})
	g := startGroup(t, b, []*harness.Load{l})
	for round := range 6 {
		l.Await(1+rand.Int64N(4000), time.Minute)
		made := fmt.Sprintf("made-%d", round)
		b.CreateTopic(t, made, 1)
		d.LosePower(b.Pid())
		// The broker notices by a failed write or fsync, and does not go on.
		select {
		case <-b.Exited():
		case <-time.After(30 * time.Second):
			t.Fatal("the broker goes on after its disk failed")
		}
		b.Kill()
		d.Remount()
		b.Start()
		g.check(t, b)
		topics, err := b.AdminClient(t).ListTopics(t.Context())
		require.NoError(t, err)
		require.True(t, topics.Has(made), "an acked topic is gone")
	}
	l.Await(1000, time.Minute)
	l.Stop()
	l.Check(b, harness.CheckOptions{})
	_, ends := b.Ends(t, "fsync")
	require.Equal(t, l.Ends(), ends)
	g.finish(t, b, []*harness.Load{l})
	b.Stop() // before the file system goes
}

// TestDiskFull fills the disk: writers are told so by a retriable error, reads
// and the process go on, and when there is space again so do the writers, without
// a hand.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	d := harness.NewDisk(t, 256<<20)
	b := harness.New(t, harness.Options{DataDir: filepath.Join(d.Dir, "data"), Store: "fs://" + filepath.Join(t.TempDir(), "bucket")})
	b.Start()
	pid := b.Pid()
	for _, topic := range []string{"t", "probe"} {
		b.CreateTopic(t, topic, 2, "remote.storage.enable", "false", "segment.bytes", "4194304")
	}
	l := harness.StartLoad(t, b, "t", harness.LoadOptions{Partitions: 2, RecordBytes: 4000, Rate: 1000})
	l.Await(1000, time.Minute)
	release := d.Fill(8 << 20)

	// One that does not try again hears of it.
	probe := b.Client(t, kgo.DisableIdempotentWrite(), kgo.RecordRetries(0), kgo.DefaultProduceTopic("probe"))
	harness.Eventually(t, time.Minute, func() string {
		err := probe.ProduceSync(t.Context(), kgo.SliceRecord(make([]byte, 100_000))).FirstErr()
		if err == nil {
			return "produce succeeds"
		}
		require.ErrorIs(t, err, kerr.KafkaStorageError)
		return ""
	})
	adm := b.AdminClient(t)
	for range 3 {
		l.Check(b, harness.CheckOptions{})
		for _, path := range []string{"/livez", "/readyz"} {
			status, body := b.Get(path)
			require.Equal(t, http.StatusOK, status, body)
		}
		// Commits write too; whatever they answer, they answer.
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		var offsets kadm.Offsets
		offsets.AddOffset("t", 0, 1, -1)
		_, _ = adm.CommitOffsets(ctx, "g", offsets)
		cancel()
	}
	// So full that not even a directory can be made.
	more := d.Fill(0)
	for i := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, _ = adm.CreateTopic(ctx, 1, 1, nil, fmt.Sprintf("no-room-%d", i))
		cancel()
	}
	l.Check(b, harness.CheckOptions{})
	status, body := b.Get("/livez")
	require.Equal(t, http.StatusOK, status, body)
	select {
	case <-b.Exited():
		t.Fatal("the broker ended because its disk is full")
	default:
	}
	full := l.Acked()
	release()
	more()
	l.Await(2000, time.Minute)
	require.NoError(t, probe.ProduceSync(t.Context(), kgo.StringRecord("room")).FirstErr())
	require.Equal(t, pid, b.Pid())
	topics, err := adm.ListTopics(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.AwaitReady(time.Minute)) // the topics made on the full disk too
	for _, topic := range topics.Names() {
		if topic == l.Topic {
			continue // it has what the load wrote, and nothing else
		}
		require.NoError(t, probe.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("room")}).FirstErr(), topic)
	}
	require.Greater(t, l.Acked(), full)
	l.Stop()
	l.Check(b, harness.CheckOptions{})
	b.Kill()
	b.Start() // and what it left on the full disk opens
	l.Check(b, harness.CheckOptions{})
	b.Stop()
}
