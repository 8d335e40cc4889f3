package broker

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/config"
)

// A configured Pyroscope gets profiles, at the latest when the broker stops.
func TestProfilesArriveAtPyroscope(t *testing.T) {
	got := make(chan string, 64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case got <- r.URL.Query().Get("name"):
		default:
		}
		w.WriteHeader(http.StatusOK)
	}))
	defer server.Close()
	b := &Broker{cfg: config.Dev(), log: slog.New(slog.DiscardHandler)}
	b.cfg.PyroscopeAddress, b.cfg.PyroscopeApp = server.URL, "firn"
	require.NoError(t, b.startProfiles())
	require.Len(t, b.undo, 1)
	b.undo[0]()
	select {
	case name := <-got:
		require.Contains(t, name, "firn")
	case <-time.After(30 * time.Second):
		t.Fatal("no profile arrived")
	}
}

// A broker starts over nothing, serves, and stops in order; a second one on the
// same directory is refused while the first runs. No goroutine outlives it.
func TestStartAndStop(t *testing.T) {
	before := runtime.NumGoroutine()
	defer func() {
		http.DefaultClient.CloseIdleConnections()
		if !assert.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 10*time.Second, 10*time.Millisecond) {
			stacks := make([]byte, 1<<20)
			t.Logf("goroutines are left:\n%s", stacks[:runtime.Stack(stacks, true)])
		}
	}()
	dir := t.TempDir()
	cfg, err := config.Load(config.Source{Profile: config.ProfileDev, Flags: []config.Flag{
		{Key: "data.dir", Value: dir}, {Key: "listeners", Value: "PLAINTEXT://127.0.0.1:0"}, {Key: "admin.address", Value: "127.0.0.1:0"}}})
	require.NoError(t, err)
	run := func() (*Broker, func() error) {
		b, err := New(cfg, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		select {
		case <-b.Ready():
		case err := <-done:
			t.Fatalf("ended while starting: %v", err)
		}
		return b, func() error { cancel(); return <-done }
	}
	b, stop := run()
	resp, err := http.Get("http://" + b.AdminAddr().String() + "/readyz")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	cluster := b.meta.Image().ClusterID()
	resp, err = http.Get("http://" + b.AdminAddr().String() + "/metrics")
	require.NoError(t, err)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	require.NoError(t, err, "what is scraped must be well formed")
	require.NoError(t, resp.Body.Close())
	require.EqualValues(t, 1, families["firn_ready"].Metric[0].Gauge.GetValue())
	for _, name := range []string{"kafka_server_replicamanager_underreplicatedpartitions", "kafka_server_replicamanager_isrshrinks_total",
		"kafka_server_replicafetchermanager_maxlag", "firn_replica_fetches_total"} {
		require.Contains(t, families, name)
	}
	require.Positive(t, families["firn_broker_lease_seconds"].Metric[0].Gauge.GetValue())
	require.InDelta(t, 0, families["firn_clock_behind_seconds"].Metric[0].Gauge.GetValue(), 1)
	require.NotContains(t, families, "firn_cluster_tls_not_after_seconds", "there is no TLS")

	second, err := New(cfg, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.ErrorContains(t, second.Run(context.Background()), "in use by another process")

	require.NoError(t, stop())
	b, stop = run()
	require.Equal(t, cluster, b.meta.Image().ClusterID(), "a node keeps its cluster over a restart")
	require.NoError(t, stop())

	wrong := cfg
	wrong.ClusterID = "AAAAAAAAAAAAAAAAAAAAAA"
	third, err := New(wrong, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.ErrorContains(t, third.Run(context.Background()), "belongs to cluster "+cluster)
}

// Who asks a broker that does not serve yet hears what it waits for.
func TestReadySaysWhatIsWaitedFor(t *testing.T) {
	cfg, err := config.Load(config.Source{Flags: []config.Flag{
		{Key: "data.dir", Value: t.TempDir()}, {Key: "listeners", Value: "PLAINTEXT://127.0.0.1:0"}, {Key: "admin.address", Value: "127.0.0.1:0"},
		{Key: "cluster.listen", Value: "127.0.0.1:0"}, {Key: "gossip.listen", Value: "127.0.0.1:0"}, {Key: "bootstrap.expect", Value: "3"},
		{Key: "remote.log.storage.system.enable", Value: "false"}}})
	require.NoError(t, err)
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	ask := func(f http.HandlerFunc) string {
		answer := httptest.NewRecorder()
		f(answer, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
		require.Equal(t, http.StatusServiceUnavailable, answer.Code)
		return answer.Body.String()
	}
	require.Equal(t, "not ready: starting\n", ask(b.readyz))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	defer func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	}()
	waits := "starting: waits for 2 more brokers to begin a cluster with (bootstrap.expect=3)"
	require.Eventually(t, func() bool { return ask(b.readyz) == "not ready: "+waits+"\n" }, 20*time.Second, time.Millisecond)
	require.Contains(t, ask(b.whenReady(b.serveHealth)), "the broker is "+waits)
}
