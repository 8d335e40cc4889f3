package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/harness"
	"github.com/firnlog/firn/tiering/objstore/storetest/faultproxy"
)

// behindProxy runs a broker whose object store is MinIO behind a fault proxy.
func behindProxy(t *testing.T) (*harness.Broker, *faultproxy.Proxy) {
	t.Helper()
	bk, s := harness.NewBucket(t)
	proxy := faultproxy.New(s.Addr)
	t.Cleanup(proxy.Close)
	return harness.Start(t, harness.Options{Store: bk.S3(proxy.Addr), Env: bk.Env, Set: storeSettings()}), proxy
}

func storeSettings() []string {
	return []string{"log.retention.check.interval.ms=200", "remote.log.manager.task.interval.ms=200",
		"cache.memory.bytes=16777216", "cache.disk.bytes=0", "tier.upload.timeout.ms=5000"}
}

// mix draws one of the faults for a share of the requests of a method ("" is
// any), and counts how often.
func mix(p *faultproxy.Proxy, share float64, method string, faults ...faultproxy.Fault) (hits func() int) {
	var mu sync.Mutex
	n := 0
	p.SetPlan(func(r *http.Request) faultproxy.Fault {
		if (method != "" && r.Method != method) || rand.Float64() >= share {
			return faultproxy.None
		}
		mu.Lock()
		defer mu.Unlock()
		n++
		return faults[rand.IntN(len(faults))]
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// healthy holds what an outage of the store must leave alone.
func healthy(t *testing.T, b *harness.Broker, l *harness.Load) {
	t.Helper()
	l.Await(500, 20*time.Second)
	for _, path := range []string{"/livez", "/readyz"} {
		status, body := b.Get(path)
		require.Equal(t, http.StatusOK, status, body)
	}
}

// awaitUploaded waits until nothing sealed is missing from the bucket, by status and
// metrics; segments may be sealed, for their age, between two looks.
func awaitUploaded(t *testing.T, b *harness.Broker, limit time.Duration) {
	t.Helper()
	harness.Eventually(t, limit, func() string {
		if s := b.TierStatus(); s.PendingSegments > 0 || s.UploadsRunning > 0 || s.Store.State != adminapi.StoreOK {
			return fmt.Sprintf("%d segments wait, %d uploads run, store %s %s", s.PendingSegments, s.UploadsRunning, s.Store.State, s.Store.LastError)
		}
		bytes, segments := b.Metric("kafka_server_brokertopicmetrics_remotecopylagbytes"), b.Metric("kafka_server_brokertopicmetrics_remotecopylagsegments")
		if bytes > 0 || segments > 0 {
			return fmt.Sprintf("the metrics tell of a lag of %v segments, %v bytes", segments, bytes)
		}
		return ""
	})
	require.EqualValues(t, 1, b.Metric("firn_object_store_up"))
}

// awaitOffDisk waits until a topic's cold part is in the bucket alone.
func awaitOffDisk(t *testing.T, b *harness.Broker, topic string) {
	t.Helper()
	harness.Eventually(t, time.Minute, func() string {
		for _, p := range b.TierMap(topic).Partitions {
			if p.LocalStart == 0 {
				return fmt.Sprintf("partition %d is on disk from its start, the bucket has it up to %d", p.Partition, p.RemoteEnd)
			}
		}
		return ""
	})
}

// TestStoreFailsNowAndThen has half of all requests fail, in every quick way,
// while segments go up and come back.
func TestStoreFailsNowAndThen(t *testing.T) {
	t.Parallel()
	b, proxy := behindProxy(t)
	b.CreateTopic(t, "t", 2, tiered()...)
	l := harness.StartLoad(t, b, "t", harness.LoadOptions{Partitions: 2, RecordBytes: 4000, Rate: 1000})
	l.Await(1000, time.Minute)
	awaitOffDisk(t, b, "t") // what a start asks of the store is over
	hits := mix(proxy, 0.5, "", faultproxy.Unavailable, faultproxy.Throttled, faultproxy.Internal,
		faultproxy.ResetBefore, faultproxy.ResetAfter, faultproxy.ResetMid, faultproxy.FlipUp)
	harness.Eventually(t, time.Minute, func() string {
		if n := hits(); n < 25 {
			return fmt.Sprintf("%d requests failed", n)
		}
		return ""
	})
	healthy(t, b, l)
	l.Stop()
	require.Positive(t, b.Metric("firn_object_store_failures_total"))
	proxy.SetPlan(nil)
	awaitUploaded(t, b, 90*time.Second)
	awaitOffDisk(t, b, "t")
	problems, objects := b.TierVerify("t")
	require.Empty(t, problems)
	require.Positive(t, objects)

	hits = mix(proxy, 0.3, http.MethodGet, faultproxy.Unavailable, faultproxy.ResetBefore, faultproxy.ResetMid, faultproxy.FlipDown)
	l.Check(b, harness.CheckOptions{})
	require.Positive(t, hits())
	hits = mix(proxy, 0.5, http.MethodGet, faultproxy.FlipDown)
	b.Restart() // the cache in memory is gone
	l.Check(b, harness.CheckOptions{})
	require.Positive(t, hits())
	require.Positive(t, b.Metric("firn_tier_corrupt_chunks_repaired_total")+b.Metric("firn_tier_corrupt_chunks_total"), "no flipped bit was seen")
}

// TestStoreHangs stops every answer for a while: writes go on, what is sealed
// piles up and shows as lag, and goes up once the store answers again.
func TestStoreHangs(t *testing.T) {
	t.Parallel()
	b, proxy := behindProxy(t)
	b.CreateTopic(t, "t", 2, tiered()...)
	l := harness.StartLoad(t, b, "t", harness.LoadOptions{Partitions: 2, RecordBytes: 4000, Rate: 1000})
	l.Await(1000, time.Minute)
	proxy.SetPlan(func(*http.Request) faultproxy.Fault { return faultproxy.Hang })
	for range 5 {
		healthy(t, b, l)
	}
	harness.Eventually(t, 20*time.Second, func() string {
		if lag := b.Metric("kafka_server_brokertopicmetrics_remotecopylagbytes"); lag < 1<<20 {
			return fmt.Sprintf("a lag of %v bytes shows", lag)
		}
		return ""
	})
	require.Positive(t, b.Metric("firn_tier_upload_lag_seconds"))
	l.Stop()
	l.Check(b, harness.CheckOptions{From: l.Ends()[0] - 100}) // hot reads go on too
	proxy.SetPlan(nil)
	awaitUploaded(t, b, 2*time.Minute) // attempts under way and pauses after them come first
	awaitOffDisk(t, b, "t")
	l.Check(b, harness.CheckOptions{})
}

// TestUploadSucceedsAfterItsTimeout loses the answers of uploads that the store
// carried out: the next attempts find the objects and take them for their own.
func TestUploadSucceedsAfterItsTimeout(t *testing.T) {
	t.Parallel()
	b, proxy := behindProxy(t)
	b.CreateTopic(t, "t", 1, tiered()...)
	awaitUploaded(t, b, time.Minute) // what a start asks of the store is over
	proxy.First(2, http.MethodPut, faultproxy.HangAfter)
	l := harness.StartLoad(t, b, "t", harness.LoadOptions{Partitions: 1, RecordBytes: 4000, Limit: 2000})
	l.Finish()
	awaitUploaded(t, b, 3*time.Minute)
	require.Positive(t, proxy.Hits())
	awaitOffDisk(t, b, "t")
	problems, objects := b.TierVerify("t")
	require.Empty(t, problems)
	require.Positive(t, objects)
	l.Check(b, harness.CheckOptions{})
}

// TestStoreDownAtStart starts without a store: clients are served, what is
// sealed waits, and goes up when the store comes.
func TestStoreDownAtStart(t *testing.T) {
	t.Parallel()
	bk, s := harness.NewBucket(t)
	addr := harness.FreeAddr(t)
	b := harness.Start(t, harness.Options{Store: bk.S3(addr), Env: bk.Env, Set: storeSettings()})
	b.CreateTopic(t, "t", 2, tiered()...)
	l := harness.StartLoad(t, b, "t", harness.LoadOptions{Partitions: 2, RecordBytes: 4000, Rate: 1500})
	l.Await(3000, time.Minute)
	healthy(t, b, l)
	harness.Eventually(t, time.Minute, func() string {
		if st := b.TierStatus(); st.Store.State != adminapi.StoreUnreachable || st.Store.LastError == "" || st.PendingSegments == 0 {
			return fmt.Sprintf("store %q, %d segments wait", st.Store.State, st.PendingSegments)
		}
		return ""
	})
	require.Zero(t, b.Metric("firn_object_store_up"))
	require.Positive(t, b.Metric("kafka_server_brokertopicmetrics_remotecopylagsegments"))
	b.Restart()
	healthy(t, b, l)
	l.Stop()
	forward(t, addr, s.Addr)
	awaitUploaded(t, b, 2*time.Minute)
	awaitOffDisk(t, b, "t")
	l.Check(b, harness.CheckOptions{})
}

// forward listens at from and passes connections on to a server until the test
// ends.
func forward(t *testing.T, from, to string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", from)
	require.NoError(t, err)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("accept: %v", err)
				}
				return
			}
			wg.Go(func() {
				defer in.Close()
				out, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
				if err != nil {
					return // the client sees its connection closed
				}
				defer out.Close()
				defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
				back := make(chan struct{})
				go func() { defer close(back); _, _ = io.Copy(in, out); in.Close() }()
				_, _ = io.Copy(out, in) // ends with either side
				out.Close()
				<-back
			})
		}
	})
}

// TestDirectoryStoreFails takes an fs store's directory away: the same as any
// other outage.
func TestDirectoryStoreFails(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bucket")
	b := harness.Start(t, harness.Options{Store: "fs://" + dir, Set: storeSettings()})
	b.CreateTopic(t, "t", 1, tiered()...)
	l := harness.StartLoad(t, b, "t", harness.LoadOptions{Partitions: 1, RecordBytes: 4000, Rate: 1500})
	l.Await(1500, time.Minute)
	require.NoError(t, os.Rename(dir, dir+".away"))
	require.NoError(t, os.WriteFile(dir, nil, 0o600)) // so that it is not made anew
	healthy(t, b, l)
	l.Await(1500, time.Minute)
	require.NoError(t, os.Remove(dir))
	require.NoError(t, os.Rename(dir+".away", dir))
	l.Stop()
	awaitUploaded(t, b, 2*time.Minute)
	awaitOffDisk(t, b, "t")
	l.Check(b, harness.CheckOptions{})
}
