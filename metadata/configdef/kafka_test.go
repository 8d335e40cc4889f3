package configdef

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Where Firn differs from Kafka on purpose. Whatever else differs is a mistake.
var (
	otherDefault = map[string]string{
		"broker.id":                             "one node needs no number",
		"node.id":                               "one node needs no number",
		"broker.heartbeat.interval.ms":          "a dead leader is replaced within four seconds",
		"broker.session.timeout.ms":             "a dead leader is replaced within four seconds",
		"process.roles":                         "every node has both",
		"log.dir":                               "Firn's own place",
		"log.dirs":                              "Firn's own place",
		"group.coordinator.rebalance.protocols": "what is served",
		"listener.security.protocol.map":        "the same map in another order",
		"queued.max.request.bytes":              "memory is bounded",
		"remote.log.reader.threads":             "these are requests, not threads",
		"remote.log.storage.system.enable":      "there is always a store",
		"replica.lag.time.max.ms":               "ten seconds are enough",
		"socket.receive.buffer.bytes":           "the system's is better",
		"socket.send.buffer.bytes":              "the system's is better",
	}
	// Dynamic in Kafka, read at start here.
	readAtStart = []string{
		"listeners", "listener.security.protocol.map", "log.cleaner.backoff.ms", "log.cleaner.threads", "num.replica.fetchers", "max.connections",
		"max.connections.per.ip", "num.recovery.threads.per.data.dir", "producer.id.expiration.ms", "remote.log.reader.threads",
		"group.consumer.assignment.interval.ms", "group.share.assignment.interval.ms", "group.streams.assignment.interval.ms",
	}
	// Kafka keeps these three out of its definition; kafka-reassign-partitions sets them.
	undeclared = []string{"leader.replication.throttled.rate", "follower.replication.throttled.rate", "replica.alter.log.dirs.io.max.bytes.per.second"}
)

var kafkaRange = regexp.MustCompile(`^\[(-?[0-9.]+),\.\.\.(?:,(-?[0-9.]+))?\]$`)

// The tables against Kafka 4.4's own, as testdata/DumpConfigs.java wrote them.
func TestAgainstKafka(t *testing.T) {
	text, err := os.ReadFile("testdata/kafka-4.4.tsv")
	require.NoError(t, err)
	tables := map[string]*table{"topic": topicTable, "group": groupTable, "broker": brokerTable}
	seen := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		f := strings.Split(line, "\t")
		require.Len(t, f, 6, line)
		kind, name, def, valid := f[0], f[1], f[3], f[4]
		k, ok := tables[kind].byName[name]
		seen[kind+" "+name] = true
		if !ok {
			require.Equal(t, "broker", kind, "%s is missing", name)
			continue
		}
		require.Equal(t, f[2], k.Type.String(), name)
		if _, differs := otherDefault[name]; !differs || kind != "broker" {
			ours := "=" + k.Default
			if !k.HasDefault {
				ours = "null"
			}
			require.Equal(t, def, ours, "default of %s", name)
		}
		if m := kafkaRange.FindStringSubmatch(valid); m != nil && kind != "broker" {
			ours := k.Valid()
			want := "at least " + m[1]
			if m[2] != "" {
				want = m[1] + " to " + m[2]
			}
			require.Equal(t, want, ours, "range of %s", name)
		}
		if kind == "broker" && !slices.Contains(readAtStart, name) {
			require.Equal(t, f[5] == "dynamic", k.Mode != ReadOnly, "update mode of %s", name)
		}
	}
	for kind, table := range tables {
		for _, k := range table.sorted {
			if !k.Firn && !slices.Contains(undeclared, k.Name) {
				require.True(t, seen[kind+" "+k.Name], "Kafka has no %s setting %s: mark it as Firn's own", kind, k.Name)
			}
		}
	}
}
