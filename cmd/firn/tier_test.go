package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/adminapi"
)

// fakeAdmin answers the admin endpoints with fixed values.
func fakeAdmin(t *testing.T, events ...adminapi.VerifyEvent) *cli {
	t.Helper()
	answer := func(value any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if err := json.NewEncoder(w).Encode(value); err != nil {
				t.Errorf("answer: %v", err)
			}
		}
	}
	now := testNow.UnixMilli()
	mux := http.NewServeMux()
	mux.HandleFunc(adminapi.PathTierStatus, answer(adminapi.TierStatus{
		ClusterID: "cluster", NodeID: 1, Enabled: true,
		Store:           adminapi.StoreStatus{URL: "s3://bucket", State: adminapi.StoreUnreachable, LastError: "connection refused", SinceMs: now - 90_000},
		Cache:           adminapi.CacheStatus{MemoryBytes: 1 << 20, MemoryLimit: 128 << 20, DiskLimit: 1 << 30, Hits: 3, Misses: 1},
		PendingSegments: 2, PendingBytes: 3 << 20, UploadsRunning: 1, UploadLagMs: 61_400, PendingDeletes: 4,
		Topics: []adminapi.TopicTiers{
			{Topic: "events", Partitions: 1, LocalBytes: 512},
			{Topic: "orders", Tiered: true, Ladder: "hot:1d,warm:30d", Partitions: 3, LocalBytes: 5 << 20, RemoteBytes: 7 << 30, Objects: 9, PendingBytes: 3 << 20, UploadLagMs: 61_400},
		},
	}))
	mux.HandleFunc(adminapi.PathTierMap, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("topic") != "orders" {
			w.WriteHeader(http.StatusNotFound)
			answer(adminapi.Error{Message: "topic " + r.URL.Query().Get("topic") + " does not exist"})(w, r)
			return
		}
		p := adminapi.PartitionMap{Partition: 0, Leader: 1, LocalStart: 100, RemoteEnd: 200, LastStable: 420, HighWatermark: 420, LogEnd: 430, Ranges: []adminapi.Range{
			{Start: 0, End: 100, Bytes: 4 << 20, InBucket: true, Tier: "warm", Object: "data/ab/abcd", CachedBytes: 1 << 20},
			{Start: 100, End: 200, Bytes: 4 << 20, OnDisk: true, InBucket: true, Why: adminapi.ReasonLocalRetention, UntilMs: now + 3_600_000},
			{Start: 200, End: 300, Bytes: 4 << 20, OnDisk: true, Why: adminapi.ReasonStoreDown, Detail: "connection refused"},
			{Start: 300, End: 430, Bytes: 1000, OnDisk: true, Why: adminapi.ReasonActive},
		}}
		m := adminapi.TierMap{Topic: "orders", TopicID: "id", Ladder: "hot:1d,warm:30d", PartitionCount: 3, Partitions: []adminapi.PartitionMap{p}}
		switch r.URL.Query().Get("partition") {
		case "1":
			m.Partitions[0].Ranges = nil
		case "2":
			m.Partitions = nil
		}
		answer(m)(w, r)
	})
	mux.HandleFunc(adminapi.PathTierVerify, func(w http.ResponseWriter, r *http.Request) {
		for _, e := range events {
			answer(e)(w, r)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return &cli{t: t, bootstrap: "127.0.0.1:1", admin: strings.TrimPrefix(server.URL, "http://")}
}

func TestTierStatusAndMap(t *testing.T) {
	c := fakeAdmin(t)
	golden(t, "tier", c.ok("", "tier", "status")+"\n"+c.ok("", "tier", "map", "orders"))
	var s adminapi.TierStatus
	require.NoError(t, json.Unmarshal([]byte(c.ok("", "tier", "status", "-o", "json")), &s))
	require.Len(t, s.Topics, 2)
	require.NotContains(t, c.ok("", "tier", "map", "orders", "-p", "1"), "200..300")
	require.Equal(t, "firn: topic nobody does not exist", c.fails("tier", "map", "nobody"))

	// Of a cluster each node tells of the replicas that it has.
	_, errOut, _ := c.run("", "tier", "map", "orders")
	require.Equal(t, "the node at "+c.admin+" has 1 of 3 partitions: the nodes that have the others, `firn topic describe orders` names them, tell of those\n", errOut)
	require.Equal(t, "firn: the node at "+c.admin+" does not have partition 2 of orders: `firn topic describe orders` names those that have", c.fails("tier", "map", "orders", "-p", "2"))
}

func TestTierVerify(t *testing.T) {
	good := adminapi.VerifyEvent{Done: 1, Total: 2, DoneBytes: 4 << 20, Object: "a", Topic: "orders", Start: 0, End: 100}
	bad := adminapi.VerifyEvent{Done: 2, Total: 2, DoneBytes: 8 << 20, Object: "b", Topic: "orders", Start: 100, End: 200, Problem: "checksum of chunk 3 differs"}
	end := adminapi.VerifyEvent{Done: 2, Total: 2, DoneBytes: 8 << 20, Finished: true}

	whole := good
	whole.Done = 2
	require.Equal(t, "2 objects, 8.0 MiB: all whole\n", fakeAdmin(t, good, whole, end).ok("", "tier", "verify"))

	out, errOut, code := fakeAdmin(t, good, bad, end).run("", "tier", "verify", "orders")
	require.Equal(t, 1, code)
	require.Equal(t, "TOPIC   PARTITION  OFFSETS   PROBLEM                      OBJECT\norders          0  100..200  checksum of chunk 3 differs  b\n", out)
	require.Equal(t, "firn: 1 of 2 objects are damaged\n", errOut)

	require.Contains(t, fakeAdmin(t, good).fails("tier", "verify"), "stopped after 1 objects, before the check was finished")
}

func TestAnotherServerAtTheAdminAddress(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	c := &cli{t: t, admin: strings.TrimPrefix(server.URL, "http://")}
	require.Contains(t, c.fails("tier", "status"), "answered 404 Not Found to /v1/tier/status: is it the admin address of a Firn node?")
}

func TestProgressIsPlainWithoutATerminal(t *testing.T) {
	var out strings.Builder
	now := testNow
	a := &app{errOut: &out, now: func() time.Time { return now }}
	p := a.newProgress("verify", 10, func(n int64) string { return plural(int(n), "object") })
	for i := range int64(10) {
		now = now.Add(2 * time.Second)
		p.set(i + 1)
	}
	p.finish()
	require.Equal(t, "verify: 3 objects of 10 objects (30%)\nverify: 6 objects of 10 objects (60%)\nverify: 9 objects of 10 objects (90%)\n", out.String())
}

func TestProgressIsABarOnATerminal(t *testing.T) {
	var out strings.Builder
	a := &app{errOut: &out, outIsTerminal: true, errIsTerminal: true, now: func() time.Time { return testNow }}
	p := a.newProgress("verify", 0, func(n int64) string { return plural(int(n), "object") })
	p.grow(2)
	p.set(1)
	p.set(2)
	p.finish()
	require.NotContains(t, out.String(), "verify: ", "no plain lines")
}
