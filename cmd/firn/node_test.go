package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker"
	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/broker/config"
	"github.com/firnlog/firn/metadata/command"
)

// startNode runs `firn dev` in this process, on ports that the system chooses,
// and returns a command line for it and a way to stop it.
func startNode(t *testing.T, dir string, settings ...string) (c *cli, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan *broker.Broker, 1)
	var errOut bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &bytes.Buffer{}, errOut: &errOut, now: time.Now,
		runBroker: func(ctx context.Context, cfg config.Config, log *slog.Logger) error {
			b, err := broker.New(cfg, log)
			if err != nil {
				return err
			}
			go func() {
				select {
				case <-b.Ready():
					ready <- b
				case <-ctx.Done():
				}
			}()
			return b.Run(ctx)
		}}
	args := []string{"dev", "--data", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-level", "warn"}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	code := make(chan int, 1)
	go func() { code <- run(ctx, a, args) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.Zero(t, <-code, errOut.String())
		}
	}
	t.Cleanup(stop)
	select {
	case b := <-ready:
		return &cli{t: t, bootstrap: b.Addr("PLAINTEXT").String(), admin: b.AdminAddr().String()}, stop
	case got := <-code:
		stopped = true
		cancel()
		require.FailNow(t, "the node did not start", "exit code %d: %s", got, errOut.String())
		return nil, nil
	}
}

// The whole journey by the command line alone: records are written, leave for
// the bucket, are read again from there, and survive a restart.
func TestJourneyOnARealNode(t *testing.T) {
	dir := t.TempDir()
	settings := []string{"remote.log.manager.task.interval.ms=50", "log.retention.check.interval.ms=50"}
	c, stop := startNode(t, dir, settings...)
	const records = 8000
	require.Equal(t, "created topic load with 2 partitions, 1 replica\n",
		c.ok("", "topic", "create", "load", "-p", "2", "-c", "segment.bytes=1048576", "-c", "local.retention.bytes=1048576", "-c", "retention.tiers=hot:1d,warm:30d"))
	c.ok("", "bench", "produce", "load", "-n", "8000", "-d", "60s", "--record-bytes", "1024")
	require.Contains(t, c.ok("", "topic", "describe", "load"), "Tiers hot:1d,warm:30d\n")

	// Wait until all that is sealed has left, and old segments are gone from the disk.
	require.Eventually(t, func() bool {
		var m adminapi.TierMap
		require.NoError(t, json.Unmarshal([]byte(c.ok("", "tier", "map", "load", "-o", "json")), &m))
		for _, p := range m.Partitions {
			if p.LocalStart == 0 || p.RemoteEnd < p.LocalStart {
				return false
			}
		}
		return len(m.Partitions) == 2
	}, 30*time.Second, 20*time.Millisecond)
	var status adminapi.TierStatus
	require.NoError(t, json.Unmarshal([]byte(c.ok("", "tier", "status", "-o", "json")), &status))
	require.Equal(t, adminapi.StoreOK, status.Store.State)
	require.Contains(t, c.ok("", "tier", "map", "load", "-p", "1"), "being written")
	require.Contains(t, c.ok("", "tier", "verify", "load"), ": all whole\n")

	var catchup benchResult
	require.NoError(t, json.Unmarshal([]byte(c.ok("", "bench", "catchup", "load", "-o", "json")), &catchup))
	require.EqualValues(t, records, catchup.Records)
	require.EqualValues(t, records*1024, catchup.Bytes)

	c.ok("k:v\n", "produce", "auto", "-k", ":")
	require.Equal(t, "k=v\n", c.ok("", "consume", "auto", "-g", "g", "--from", "earliest", "-e", "-f", `%k=%v\n`))
	require.Contains(t, c.ok("", "group", "lag", "g"), "g      auto ")

	require.Equal(t, "SETTING       VALUE     FROM\nobject.store  data.dir  dynamic default broker config\n", c.ok("", "cluster", "config"))
	require.Equal(t, "changed for all brokers: log.retention.ms\n", c.ok("", "cluster", "config", "-c", "log.retention.ms=86400000"))
	require.Regexp(t, `(?m)^log\.retention\.ms  86400000  dynamic default broker config$`, c.ok("", "cluster", "config"))
	require.Contains(t, c.ok("", "cluster", "config", "--broker", "1"), "data.dir ")
	require.Equal(t, "changed for all brokers: log.retention.ms\n", c.ok("", "cluster", "config", "--unset", "log.retention.ms"))
	require.Contains(t, c.fails("cluster", "config", "-c", "log.retention.mss=1"), "log.retention.mss")
	require.Contains(t, c.fails("cluster", "config", "--unset", "nonsense"), "Unknown broker config name: nonsense (INVALID_CONFIG)")
	level := strconv.Itoa(int(command.MaxLevel))
	require.Regexp(t, `(?m)^firn\.version +`+level+`  1\.\.`+level+`$`, c.ok("", "cluster", "features"))
	require.Equal(t, "firn.version is at level "+level+"\n", c.ok("", "cluster", "features", "--upgrade", "firn.version="+level))
	require.Contains(t, c.fails("cluster", "features", "--upgrade", "firn.version=99"), "the brokers do not support this level of feature firn.version (INVALID_UPDATE_VERSION)")
	require.Contains(t, c.ok("", "cluster", "health"), " is ok\n")
	require.Contains(t, c.ok("", "cluster", "brokers"), " 1  up ")
	require.Equal(t, "nothing to move\n", c.ok("", "cluster", "rebalance", "--dry-run"))
	require.Contains(t, c.fails("cluster", "drain", "9"), "broker 9 is not registered")
	require.Contains(t, c.fails("cluster", "decommission", "1"), "broker 1 is up: stop it first")

	stop()
	c, _ = startNode(t, dir, settings...)
	require.Equal(t, strings.Repeat(".", records), c.ok("", "consume", "load", "--from", "earliest", "-e", "-f", "."))
	require.Equal(t, "", c.ok("", "consume", "auto", "-g", "g", "--from", "earliest", "-e"), "the group's place outlives a restart")
	require.Contains(t, c.fails("topic", "delete", "__consumer_offsets", "-y"), "firn: __consumer_offsets is internal: ")
	require.Contains(t, c.ok("", "group", "seek", "g", "--to", "earliest"), "auto           0     1   0\n")
	c.ok("", "group", "delete", "g")
	c.ok("", "topic", "delete", "load", "auto", "-y")
	require.Equal(t, "TOPIC  PARTITIONS  REPLICAS\n", c.ok("", "topic", "list"))
}

func TestMistakesAtARealNode(t *testing.T) {
	c, _ := startNode(t, t.TempDir())
	c.ok("", "topic", "create", "orders", "-p", "2")
	for want, args := range map[string][]string{
		"firn: topic x: Unknown topic config name: retention.mss (INVALID_CONFIG); did you mean retention.ms?":                                   {"topic", "create", "x", "-c", "retention.mss=5"},
		"firn: topic x: Invalid value 5 for configuration segment.bytes: Value must be at least 1048576 (INVALID_CONFIG)":                        {"topic", "create", "x", "-c", "segment.bytes=5"},
		"warm:1d is not older than hot:30d: an age counts from when the record was written, so ages must rise along the ladder (INVALID_CONFIG)": {"topic", "alter", "orders", "-c", "retention.tiers=hot:30d,warm:1d"},
		"firn: topic orders: It is invalid to disable remote storage without deleting remote data.":                                              {"topic", "alter", "orders", "-c", "remote.storage.enable=false"},
		"retention.tiers=hot:1d,warm:30d means retention.ms=2592000000, but retention.ms=5 is set too: remove one of the two":                    {"topic", "alter", "orders", "-c", "retention.tiers=hot:1d,warm:30d", "-c", "retention.ms=5"},
		"firn: topic orders: Unknown topic config name: retention.mss (INVALID_CONFIG); did you mean retention.ms?":                              {"topic", "alter", "orders", "--unset", "retention.mss"},
		"firn: topic orders: it exists already; `firn topic alter` changes it":                                                                   {"topic", "create", "orders"},
		"(INVALID_PARTITIONS)":             {"topic", "alter", "orders", "-p", "1"},
		"(INVALID_TOPIC_EXCEPTION)":        {"topic", "create", "a/b"},
		`firn: there is no topic "nobody"`: {"tier", "map", "nobody"},
		": it does not speak HTTP (is it the address for Kafka clients?); name another address with --admin": {"tier", "status", "--admin", c.bootstrap},
		"firn: group nobody: it does not exist; `firn group list` shows what does":                           {"group", "describe", "nobody"},
	} {
		require.Contains(t, c.fails(args...), want)
	}
}

// startFails runs `firn dev` with what must not start, and returns its error line.
func startFails(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var errOut bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &bytes.Buffer{}, errOut: &errOut, now: time.Now, runBroker: runBroker}
	args = append([]string{"dev", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-level", "error"}, args...)
	require.Equal(t, 1, run(ctx, a, args))
	require.NoError(t, ctx.Err())
	return errOut.String()
}

// A directory tells whose it is: another node's number, or logs whose metadata is
// gone, would make its records invisible without a word.
func TestADirectoryOfAnotherNode(t *testing.T) {
	dir := t.TempDir()
	_, stop := startNode(t, dir)
	stop()
	require.Equal(t, "firn: node.id changed: node.id is 7, and the data directory belongs to node 1: correct node.id or data.dir\n",
		startFails(t, "--data", dir, "--set", "node.id=7"))
	require.Contains(t, startFails(t, "--data", dir, "--set", "cluster.id=AAAAAAAAAAAAAAAAAAAAAA"), ": correct cluster.id or data.dir\n")
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "metadata")))
	require.Contains(t, startFails(t, "--data", dir), ": bring it back, or begin anew with an empty data.dir\n")
	require.NoDirExists(t, filepath.Join(dir, "metadata"))
}

func TestAClusterNeedsAPortAndASharedStore(t *testing.T) {
	require.Contains(t, startFails(t, "--data", t.TempDir(), "--set", "bootstrap.expect=3", "--set", "cluster.listen=127.0.0.1:0", "--set", "gossip.listen=127.0.0.1:0"),
		"firn: object.store.url is not set, so this node would tier into its own data.dir")
	const want = "firn: configuration: cluster.listen: got \"nothing\", want HOST:PORT because of bootstrap.expect 3\n"
	require.Equal(t, want, startFails(t, "--data", t.TempDir(), "--set", "bootstrap.expect=3"))
	require.Equal(t, want, startFails(t, "--data", t.TempDir(), "--set", "bootstrap.expect=3", "--check"))
}

func TestAPortInUseIsNamed(t *testing.T) {
	c, _ := startNode(t, t.TempDir())
	require.Equal(t, "firn: listeners: listener PLAINTEXT: listen tcp "+c.bootstrap+": bind: address already in use: another process listens there; stop that one, or choose another port\n",
		startFails(t, "--data", t.TempDir(), "--listen", c.bootstrap))
	require.Equal(t, "firn: admin.address: listen tcp "+c.bootstrap+": bind: address already in use: another process listens there; stop that one, or choose another port\n",
		startFails(t, "--data", t.TempDir(), "--admin", c.bootstrap))
}

func TestADirectoryInUseIsNamed(t *testing.T) {
	dir := t.TempDir()
	_, _ = startNode(t, dir)
	require.Equal(t, "firn: data.dir "+dir+" is in use by another process: stop that one, or name another directory\n", startFails(t, "--data", dir))
}
