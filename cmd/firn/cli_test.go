package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var update = flag.Bool("update", false, "write golden files anew")

// testNow is the clock of tests: 2026-01-31T12:00:00Z.
var testNow = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// cli runs command lines against one fake cluster.
type cli struct {
	t         *testing.T
	cluster   *kfake.Cluster
	bootstrap string
	admin     string
	env       []string
	terminal  bool
}

// startCluster is a one-node Kafka look-alike with topics of three partitions.
func startCluster(t *testing.T, topics ...string) *cli {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, topics...))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	return &cli{t: t, cluster: cluster, bootstrap: cluster.ListenAddrs()[0], admin: "127.0.0.1:1"}
}

func (c *cli) run(stdin string, args ...string) (out, errOut string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return c.runContext(ctx, stdin, args...)
}

func (c *cli) runContext(ctx context.Context, stdin string, args ...string) (string, string, int) {
	var out, errOut bytes.Buffer
	a := &app{
		in: strings.NewReader(stdin), out: &out, errOut: &errOut, inIsTerminal: c.terminal,
		env: append([]string{"FIRN_BOOTSTRAP_SERVER=" + c.bootstrap, "FIRN_ADMIN=" + c.admin}, c.env...),
		now: func() time.Time { return testNow },
	}
	code := run(ctx, a, args)
	return out.String(), errOut.String(), code
}

// ok runs a command line that must succeed and returns what it printed.
func (c *cli) ok(stdin string, args ...string) string {
	c.t.Helper()
	out, errOut, code := c.run(stdin, args...)
	require.Zero(c.t, code, "firn %s: %s", strings.Join(args, " "), errOut)
	return out
}

// fails runs a command line that must fail and returns the error line.
func (c *cli) fails(args ...string) string {
	c.t.Helper()
	out, errOut, code := c.run("", args...)
	require.NotZero(c.t, code, "firn %s: %s", strings.Join(args, " "), out)
	return strings.TrimSuffix(errOut, "\n")
}

// What differs from run to run.
var scrubs = []struct {
	find *regexp.Regexp
	put  string
}{
	{regexp.MustCompile(`(id:? |"id": ")[A-Za-z0-9_-]{22}\b-?`), "${1}TOPICIDTOPICIDTOPICIDTO"},
	{regexp.MustCompile(`firn-cli-[0-9a-f-]{36}`), "firn-cli-MEMBER"},
	{regexp.MustCompile(`127\.0\.0\.1:\d{5}`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`"timestamp":\d+`), `"timestamp":0`},
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	for _, s := range scrubs {
		got = s.find.ReplaceAllString(got, s.put)
	}
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestTopicsFromCreationToDeletion(t *testing.T) {
	c := startCluster(t)
	var transcript strings.Builder
	step := func(args ...string) {
		out, errOut, _ := c.run("", args...)
		transcript.WriteString("$ firn " + strings.Join(args, " ") + "\n" + out + errOut)
	}
	step("topic", "list")
	step("topic", "create", "orders", "-p", "2", "-r", "1", "-c", "retention.ms=86400000", "-c", "segment.bytes=2097152")
	step("topic", "create", "orders")
	step("topic", "create", "orders", "events", "--if-not-exists", "-p", "1")
	step("topic", "create", "planned", "--dry-run", "-p", "4", "-r", "1")
	step("topic", "list")
	step("topic", "list", "-o", "json")
	step("topic", "list", "-o", "yaml")
	step("topic", "describe", "orders")
	step("topic", "describe", "orders", "-o", "yaml")
	step("topic", "describe", "missing")
	step("topic", "alter", "orders", "-c", "retention.ms=5", "--unset", "segment.bytes", "--append", "cleanup.policy=compact")
	step("topic", "alter", "orders", "--partitions", "3", "-o", "json")
	step("topic", "describe", "orders")
	step("topic", "alter", "orders", "-p", "1")
	step("topic", "alter", "orders")
	step("topic", "alter", "orders", "-c", "retention")
	step("topic", "delete", "orders", "missing")
	step("topic", "delete", "events", "-o", "json")
	step("topic", "list", "-o", "json")
	step("topic", "list", "-o", "xml")
	golden(t, "topic", transcript.String())
}

func TestRefusalsOfSettings(t *testing.T) {
	c := startCluster(t)
	c.cluster.ControlKey(int16(kmsg.CreateTopics), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.cluster.KeepControl()
		resp := r.ResponseKind().(*kmsg.CreateTopicsResponse)
		topic := kmsg.NewCreateTopicsResponseTopic()
		topic.Topic, topic.ErrorCode = "orders", kerr.InvalidConfig.Code
		topic.ErrorMessage = kmsg.StringPtr("Unknown topic config name: retention.mss")
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	require.Equal(t, "firn: topic orders: Unknown topic config name: retention.mss (INVALID_CONFIG); did you mean retention.ms?",
		c.fails("topic", "create", "orders", "-c", "retention.mss=5"))
}

func TestDeletionAsksAPerson(t *testing.T) {
	c := startCluster(t, "orders")
	c.terminal = true
	_, errOut, code := c.run("n\n", "topic", "delete", "orders")
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "delete orders with all data, on disk and in the object store? [y/N] firn: nothing was deleted")
	_, _, code = c.run("", "topic", "delete", "orders")
	require.Equal(t, 1, code, "no answer is no")
	require.Equal(t, "deleted topic orders\n", c.ok("y\n", "topic", "delete", "orders"))
}

func TestProduceThenConsume(t *testing.T) {
	c := startCluster(t, "orders")
	_, errOut, code := c.run("a:1\nb:2\nnokey\nc:\n", "produce", "orders", "-k", ":", "-p", "1", "-H", "source=shop", "-H", "n=2", "-Z", "-z", "zstd")
	require.Zero(t, code, errOut)
	require.Equal(t, "wrote 4 records, 10 B, to orders\n", errOut)

	require.Equal(t, "1 0 a 1 1 1 source=shop,n=2|\n1 1 b 1 2 1 source=shop,n=2|\n1 2  -1 nokey 5 source=shop,n=2|\n1 3 c 1  -1 source=shop,n=2|\n",
		c.ok("", "consume", "orders", "--from", "earliest", "-e", "-f", `%p %o %k %K %v %S %h|\n`))
	require.Equal(t, "2\nnokey\n", c.ok("", "consume", "orders", "--from", "1", "--to", "3"))
	require.Equal(t, "nokey\n\n", c.ok("", "consume", "orders", "--from", "-2", "-e"))
	require.Equal(t, "1\n", c.ok("", "consume", "orders", "--from", "earliest", "-n", "1"))
	require.Equal(t, "", c.ok("", "consume", "orders", "-p", "0", "--from", "earliest", "-e"))
	require.Equal(t, "", c.ok("", "consume", "orders", "-e"))
	golden(t, "consume_json", c.ok("", "consume", "orders", "--from", "earliest", "-e", "-o", "json"))
	out := c.ok("", "consume", "orders", "--from", "3", "-e", "-o", "yaml")
	require.Contains(t, out, "---\ntopic: orders\npartition: 1\noffset: 3\n")
	require.Contains(t, out, "value: null\n")

	require.Equal(t, "firn: topic missing: it does not exist; `firn topic list` shows what does", c.fails("consume", "missing", "-e"))
	require.Equal(t, "firn: topic orders has no partition 7: it has 3, from 0 on", c.fails("consume", "orders", "-p", "7", "-e"))
	require.Contains(t, c.fails("consume", "orders", "--from", "soon"), `firn: --from: "soon" is no place in a topic: write earliest, latest,`)
	require.Contains(t, c.fails("consume", "orders", "-f", "%q"), "firn: %q is not known in a format")
	require.Equal(t, `firn: --compression "brotli" is not known: it is none, gzip, snappy, lz4 or zstd`, c.fails("produce", "orders", "-z", "brotli"))
	require.Equal(t, `firn: --acks "2" is not known: it is all, 1 or 0`, c.fails("produce", "orders", "--acks", "2"))
	require.Equal(t, `firn: --header "x": write NAME=VALUE`, c.fails("produce", "orders", "-H", "x"))
	require.Equal(t, "firn: --key and --key-separator exclude each other", c.fails("produce", "orders", "--key", "x", "-k", ":"))
}

func TestProduceSettings(t *testing.T) {
	c := startCluster(t, "orders")
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		for _, acks := range []string{"all", "1", "0"} {
			var r produceResult
			require.NoError(t, json.Unmarshal([]byte(c.ok("x\ny", "produce", "orders", "-z", codec, "--acks", acks, "--key", "k", "-o", "json")), &r))
			require.Equal(t, produceResult{Topic: "orders", Records: 2, Bytes: 4}, r)
		}
	}
	total := c.ok("", "consume", "orders", "--from", "earliest", "-e", "-f", "%k")
	require.Equal(t, strings.Repeat("k", 30), total)
}

// The end may lie behind records that are never delivered: only its control
// record tells that an aborted transaction is over.
func TestConsumeEndsAfterAnAbortedTransaction(t *testing.T) {
	c := startCluster(t, "orders")
	ctx := context.Background()
	producer, err := kgo.NewClient(kgo.SeedBrokers(c.bootstrap), kgo.TransactionalID("t"), kgo.DefaultProduceTopic("orders"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer producer.Close()
	for _, commit := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		require.NoError(t, producer.BeginTransaction())
		require.NoError(t, producer.ProduceSync(ctx, kgo.StringRecord(map[bool]string{true: "kept", false: "dropped"}[bool(commit)])).FirstErr())
		require.NoError(t, producer.EndTransaction(ctx, commit))
	}
	require.Equal(t, "kept\n", c.ok("", "consume", "orders", "--from", "earliest", "-e", "--read-committed"))
	require.Equal(t, "kept\ndropped\n", c.ok("", "consume", "orders", "--from", "earliest", "-e"))
}

// A range that the broker cannot read is told once, and read when it can be.
func TestConsumeTellsOfARangeThatCannotBeRead(t *testing.T) {
	c := startCluster(t, "orders")
	c.ok("v\n", "produce", "orders", "-p", "0")
	refusals := 3
	c.cluster.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.cluster.KeepControl()
		req := r.(*kmsg.FetchRequest)
		if refusals == 0 || len(req.Topics) == 0 {
			return nil, nil, false
		}
		refusals--
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		for _, asked := range req.Topics {
			topic := kmsg.NewFetchResponseTopic()
			topic.Topic, topic.TopicID = asked.Topic, asked.TopicID
			for _, p := range asked.Partitions {
				part := kmsg.NewFetchResponseTopicPartition()
				part.Partition, part.ErrorCode = p.Partition, kerr.KafkaStorageError.Code
				topic.Partitions = append(topic.Partitions, part)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	})
	out, errOut, code := c.run("", "consume", "orders", "-p", "0", "--from", "earliest", "-e")
	require.Zero(t, code, errOut)
	require.Equal(t, "v\n", out)
	require.Equal(t, 1, strings.Count(errOut, "KAFKA_STORAGE_ERROR"), errOut)
	require.Zero(t, refusals)
}

func TestGroups(t *testing.T) {
	c := startCluster(t, "orders")
	c.ok("a\nb\nc\n", "produce", "orders", "-p", "0")
	require.Equal(t, "a\nb\nc\n", c.ok("", "consume", "orders", "-g", "billing", "--from", "earliest", "-e"))
	require.Equal(t, "", c.ok("", "consume", "orders", "-g", "billing", "--from", "earliest", "-e"), "committed")
	c.ok("d\ne\n", "produce", "orders", "-p", "0")

	var transcript strings.Builder
	step := func(args ...string) {
		out, errOut, _ := c.run("", args...)
		transcript.WriteString("$ firn " + strings.Join(args, " ") + "\n" + out + errOut)
	}
	step("group", "list")
	step("group", "lag", "billing")
	step("group", "describe", "billing")
	step("group", "describe", "billing", "-o", "json")
	step("group", "lag", "billing", "-o", "yaml")
	step("group", "seek", "billing", "--to", "1", "--dry-run")
	step("group", "seek", "billing", "--to", "1", "-t", "orders", "-p", "0")
	step("group", "lag", "billing")
	step("group", "seek", "billing")
	step("group", "seek", "billing", "--to", "never")
	step("group", "seek", "nobody", "--to", "earliest")
	step("group", "describe", "nobody")
	step("group", "delete", "billing")
	step("group", "list", "-o", "json")
	golden(t, "group", transcript.String())
	require.Contains(t, c.fails("consume", "orders", "-g", "x", "--to", "5"), "--group shares partitions out")
	require.Contains(t, c.fails("consume", "orders", "-g", "x", "--from", "5"), "`firn group seek` moves it elsewhere")
}

func TestAGroupWithMembersIsLeftAlone(t *testing.T) {
	c := startCluster(t, "orders")
	c.ok("a\n", "produce", "orders", "-p", "0")
	member, err := kgo.NewClient(kgo.SeedBrokers(c.bootstrap), kgo.ConsumerGroup("billing"), kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer member.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NotZero(t, member.PollFetches(ctx).NumRecords())
	require.NoError(t, member.CommitUncommittedOffsets(ctx))

	require.Equal(t, "firn: group billing has 1 member that would not notice: stop its consumers first", c.fails("group", "seek", "billing", "--to", "earliest"))
	require.Equal(t, "firn: group billing: it has members; stop its consumers first", c.fails("group", "delete", "billing"))
	described := c.ok("", "group", "describe", "billing")
	require.Contains(t, described, "orders-0 orders-1 orders-2")
}

func TestFollowingEndsAtAnInterrupt(t *testing.T) {
	c := startCluster(t, "orders")
	ctx, interrupt := context.WithCancel(context.Background())
	seen := make(chan struct{})
	var out writerFunc = func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("live")) {
			close(seen)
		}
		return len(p), nil
	}
	a := &app{in: strings.NewReader(""), out: out, errOut: &bytes.Buffer{}, env: []string{"FIRN_BOOTSTRAP_SERVER=" + c.bootstrap}, now: time.Now}
	code := make(chan int)
	go func() { code <- run(ctx, a, []string{"consume", "orders", "--from", "earliest"}) }()
	c.ok("live\n", "produce", "orders")
	<-seen
	interrupt()
	require.Zero(t, <-code)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestBench(t *testing.T) {
	c := startCluster(t)
	var r benchResult
	require.NoError(t, json.Unmarshal([]byte(c.ok("", "bench", "produce", "load", "-p", "3", "-r", "1", "-n", "2000", "--record-bytes", "100", "--key-bytes", "8", "--connections", "2", "-d", "20s", "-o", "json")), &r))
	require.EqualValues(t, 2000, r.Records)
	require.EqualValues(t, 2000*108, r.Bytes)
	require.Equal(t, 3, r.Partitions)
	require.Positive(t, r.LatencyMs.P50)
	require.LessOrEqual(t, r.LatencyMs.P50, r.LatencyMs.P99)
	require.LessOrEqual(t, r.LatencyMs.P99, r.LatencyMs.Max)
	require.Equal(t, strings.Repeat("x", 2000), c.ok("", "consume", "load", "--from", "earliest", "-e", "-f", "x"))

	r = benchResult{}
	require.NoError(t, json.Unmarshal([]byte(c.ok("", "bench", "catchup", "load", "--connections", "5", "-o", "json")), &r))
	require.EqualValues(t, 2000, r.Records)
	require.Equal(t, 3, r.Connections, "one partition each")
	require.Positive(t, r.FirstRecordMs)
	require.Nil(t, r.LatencyMs)

	out := c.ok("", "bench", "catchup", "load", "-n", "10", "--from", "latest")
	require.Contains(t, out, "catchup load: 0 records")
	require.Contains(t, c.fails("bench", "produce", "load", "--connections", "0"), "--connections: at least 1")
	require.Contains(t, c.fails("bench", "catchup", "missing"), "topic missing: it does not exist")
}

func TestBenchConsumeTimesLiveRecords(t *testing.T) {
	c := startCluster(t, "live")
	result := make(chan string)
	go func() {
		out, errOut, _ := c.run("", "bench", "consume", "live", "-n", "5", "-d", "20s", "-o", "json")
		result <- out + errOut
	}()
	// The reader begins at an end that it reads itself, so keep writing until it has seen enough.
	client, err := kgo.NewClient(kgo.SeedBrokers(c.bootstrap), kgo.DefaultProduceTopic("live"))
	require.NoError(t, err)
	defer client.Close()
	for {
		select {
		case text := <-result:
			var r benchResult
			require.NoError(t, json.Unmarshal([]byte(text), &r), text)
			require.GreaterOrEqual(t, r.Records, int64(5))
			require.NotNil(t, r.LatencyMs)
			return
		default:
			require.NoError(t, client.ProduceSync(context.Background(), kgo.StringRecord("x")).FirstErr())
		}
	}
}

func TestNobodyThere(t *testing.T) {
	c := &cli{t: t, bootstrap: "127.0.0.1:1", admin: "127.0.0.1:1"}
	const nobody = "firn: nothing listens on 127.0.0.1:1 (connection refused); start a node with `firn dev`, or name a running one with "
	for _, args := range [][]string{{"topic", "list"}, {"produce", "x"}, {"consume", "x"}, {"group", "list"}, {"bench", "produce", "x"}, {"bench", "catchup", "x"}} {
		require.Equal(t, nobody+"--bootstrap-server", c.fails(args...))
	}
	require.Equal(t, nobody+"--admin", c.fails("tier", "status"))
	require.Contains(t, c.fails("tier", "status", "--admin", "9644"), `--admin "9644": write HOST:PORT`)
}

func TestCompletionAsksTheBroker(t *testing.T) {
	c := startCluster(t, "orders", "events")
	require.Equal(t, "events\norders\n:4\n", c.ok("", "__complete", "topic", "describe", ""))
	require.Equal(t, "none\ngzip\nsnappy\nlz4\nzstd\n:4\n", c.ok("", "__complete", "produce", "orders", "--compression", ""))
	require.Contains(t, c.ok("", "__complete", "topic", "create", "x", "--config", "retention.t"), "retention.tiers=\t")
	c.bootstrap = "127.0.0.1:1"
	require.Equal(t, ":4\n", c.ok("", "__complete", "topic", "describe", ""))
	require.Contains(t, c.ok("", "completion", "bash"), "__start_firn")
}

func TestPlacesByTime(t *testing.T) {
	c := startCluster(t, "orders")
	client, err := kgo.NewClient(kgo.SeedBrokers(c.bootstrap), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer client.Close()
	for i, age := range []time.Duration{72 * time.Hour, 2 * time.Hour, time.Minute} {
		r := &kgo.Record{Topic: "orders", Value: []byte{'a' + byte(i)}, Timestamp: testNow.Add(-age)}
		require.NoError(t, client.ProduceSync(context.Background(), r).FirstErr())
	}
	for from, want := range map[string]string{"7d": "abc", "1d": "bc", "3h": "bc", "90s": "c", "1s": "", "2026-01-31": "bc", "2026-01-31T11:00:00Z": "c", "2026-01-29 00:00:00": "bc", "@0": "abc"} {
		require.Equal(t, want, c.ok("", "consume", "orders", "-p", "0", "--from", from, "-e", "-f", "%v"), from)
	}
	require.Equal(t, "b", c.ok("", "consume", "orders", "-p", "0", "--from", "1d", "--to", "1h", "-f", "%v"))
	admin := kadm.NewClient(client)
	ends, err := admin.ListEndOffsets(context.Background(), "orders")
	require.NoError(t, err)
	require.EqualValues(t, 3, ends["orders"][0].Offset)
}
