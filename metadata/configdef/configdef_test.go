package configdef

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTablesAreWhole(t *testing.T) {
	for _, table := range [][]*Key{TopicKeys(), BrokerKeys(), GroupKeys()} {
		for i, k := range table {
			require.NotEmpty(t, k.Doc, k.Name)
			require.True(t, strings.HasSuffix(k.Doc, "."), "%s: documentation is a sentence", k.Name)
			if i > 0 {
				require.Less(t, table[i-1].Name, k.Name)
			}
			for _, s := range k.Synonyms {
				_, ok := Broker(s.Name)
				require.True(t, ok, "%s: synonym %s is no broker setting", k.Name, s.Name)
			}
			for _, name := range append([]string{k.minFrom, k.maxFrom}, k.aliases...) {
				if name == "" {
					continue
				}
				_, ok := Broker(name)
				require.True(t, ok, "%s: %s is no broker setting", k.Name, name)
			}
		}
	}
}

// Inherited values and the table's own defaults must agree, or a topic would
// behave otherwise than DescribeConfigs says.
func TestTopicDefaultsAgreeWithBrokerDefaults(t *testing.T) {
	for _, k := range TopicKeys() {
		for _, s := range k.Synonyms {
			b, _ := Broker(s.Name)
			if !b.HasDefault {
				continue
			}
			got, err := k.convert(s, b.Default)
			require.NoError(t, err, s.Name)
			require.Equal(t, k.Default, got, "%s against %s", k.Name, s.Name)
		}
	}
}

func TestKafkaDefaults(t *testing.T) {
	c, err := ParseTopic(nil, nil)
	require.NoError(t, err)
	require.Equal(t, &TopicConfig{
		CleanupDelete: true, CompressionType: "producer", GzipLevel: -1, Lz4Level: 9, ZstdLevel: 3,
		DeleteRetentionMs: 86400000, FileDeleteDelayMs: 60000, FlushMs: math.MaxInt64,
		IndexIntervalBytes: 4096, SegmentIndexBytes: 10 << 20, MaxMessageBytes: 1048588,
		MaxCompactionLagMs: math.MaxInt64, MinCleanableDirtyRatio: 0.5,
		TimestampBeforeMaxMs: math.MaxInt64, TimestampAfterMaxMs: 3600000, MinInsyncReplicas: 1,
		SegmentBytes: 1 << 30, SegmentMs: 7 * dayMs, RetentionMs: 7 * dayMs, RetentionBytes: -1,
		LocalRetentionMs: 7 * dayMs, LocalRetentionBytes: -1, Fsync: true,
		RemoteCopyLagBytes: -1, MaxDecompressedBytes: 2147483639,
	}, c)
}

func TestValidateTopicOverride(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"retention.ms", "-1", ""},
		{"retention.ms", " 5 ", ""},
		{"retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1"},
		{"retention.ms", "soon", "Invalid value soon for configuration retention.ms: Not a number of type LONG"},
		{"retention.ms", "9223372036854775808", "Invalid value 9223372036854775808 for configuration retention.ms: Not a number of type LONG"},
		{"segment.bytes", "1048576", ""},
		{"segment.bytes", "1048575", "Invalid value 1048575 for configuration segment.bytes: Value must be at least 1048576"},
		{"segment.bytes", "2147483648", "Invalid value 2147483648 for configuration segment.bytes: Not a number of type INT"},
		{"cleanup.policy", "compact, delete", ""},
		{"cleanup.policy", "", ""},
		{"cleanup.policy", ",delete", "Configuration 'cleanup.policy' values must not be empty."},
		{"cleanup.policy", "shred", "Invalid value shred for configuration cleanup.policy: String must be one of: compact, delete"},
		{"compression.type", "brotli", "Invalid value brotli for configuration compression.type: String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer"},
		{"compression.gzip.level", "-1", ""},
		{"compression.gzip.level", "0", "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1"},
		{"compression.zstd.level", "23", "Invalid value 23 for configuration compression.zstd.level: Value must be no more than 22"},
		{"preallocate", "TRUE", ""},
		{"preallocate", "yes", "Invalid value yes for configuration preallocate: Expected value to be either true or false"},
		{"min.cleanable.dirty.ratio", "1", ""},
		{"min.cleanable.dirty.ratio", "1.1", "Invalid value 1.1 for configuration min.cleanable.dirty.ratio: Value must be no more than 1"},
		{"min.cleanable.dirty.ratio", "NaN", "Invalid value NaN for configuration min.cleanable.dirty.ratio: Not a number of type DOUBLE"},
		{"leader.replication.throttled.replicas", "0:1,3:2", ""},
		{"leader.replication.throttled.replicas", "*", ""},
		{"leader.replication.throttled.replicas", "0", "Invalid value 0 for configuration leader.replication.throttled.replicas: must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],..."},
		{"local.retention.ms", "-2", ""},
		{"local.retention.ms", "-3", "Invalid value -3 for configuration local.retention.ms: Value must be at least -2"},
		{"durability", "replicated", ""},
		{"durability", "hope", "Invalid value hope for configuration durability: String must be one of: fsync, replicated"},
		{"retention.tiers", "hot:1d,warm:30d", ""},
		{"retention.tiers", "warm:30d", "Invalid value warm:30d for configuration retention.tiers: the ladder begins with warm, but records land on local disk first: begin with hot:AGE"},
		{"message.format.version", "3.0", "Unknown topic config name: message.format.version"},
		{"log.retention.ms", "1", "Unknown topic config name: log.retention.ms"},
	} {
		err := ValidateTopicOverride(tc.name, tc.value)
		if tc.want == "" {
			require.NoError(t, err, "%s=%s", tc.name, tc.value)
			continue
		}
		require.EqualError(t, err, tc.want)
		require.ErrorIs(t, err, ErrInvalid)
	}
}

func TestParseTopicRules(t *testing.T) {
	type set = map[string]string
	for _, tc := range []struct {
		name      string
		overrides set
		broker    set
		want      string // error, "" for none
		check     func(*testing.T, *TopicConfig)
	}{
		{name: "hours become milliseconds", broker: set{"log.retention.hours": "2"}, check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, 2*hourMs, c.RetentionMs)
		}},
		{name: "minutes are stronger than hours, ms than both", broker: set{"log.retention.hours": "2", "log.retention.minutes": "3", "log.retention.ms": "7"}, check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, 7, c.RetentionMs)
		}},
		{name: "minus one hour is unlimited", broker: set{"log.retention.hours": "-1"}, check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, -1, c.RetentionMs)
		}},
		{name: "the topic is stronger than the broker", overrides: set{"segment.bytes": "2097152"}, broker: set{"log.segment.bytes": "4194304"}, check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, 2<<20, c.SegmentBytes)
		}},
		{name: "a bad broker value gives way", broker: set{"log.retention.ms": "soon"}, want: "Invalid value soon for configuration retention.ms: Not a number of type LONG", check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, 7*dayMs, c.RetentionMs)
		}},
		{name: "every mistake at once", overrides: set{"a.b": "1", "retention.ms": "x", "segment.ms": "0"},
			want: "Unknown topic config name: a.b; Invalid value x for configuration retention.ms: Not a number of type LONG; Invalid value 0 for configuration segment.ms: Value must be at least 1"},
		{name: "compaction lags cross", overrides: set{"min.compaction.lag.ms": "5", "max.compaction.lag.ms": "4"},
			want: "conflict topic config setting min.compaction.lag.ms (5) > max.compaction.lag.ms (4)"},

		{name: "flush.messages=1 is fsync", overrides: set{"flush.messages": "1"}, broker: set{"log.durability": "replicated"}, check: func(t *testing.T, c *TopicConfig) {
			require.True(t, c.Fsync)
		}},
		{name: "the broker's flush.messages=1 is fsync too", broker: set{"log.durability": "replicated", "log.flush.interval.messages": "1"}, check: func(t *testing.T, c *TopicConfig) {
			require.True(t, c.Fsync)
		}},
		{name: "but a topic may say otherwise", overrides: set{"durability": "replicated"}, broker: set{"log.flush.interval.messages": "1"}, check: func(t *testing.T, c *TopicConfig) {
			require.False(t, c.Fsync)
		}},
		{name: "not in the same breath", overrides: set{"durability": "replicated", "flush.messages": "1"},
			want: "flush.messages=1 means durability=fsync, but durability=replicated is set too: remove one of the two"},
		{name: "replicated", overrides: set{"durability": "replicated"}, check: func(t *testing.T, c *TopicConfig) {
			require.False(t, c.Fsync)
		}},

		{name: "local retention follows the total", overrides: set{"remote.storage.enable": "true", "retention.ms": "100"}, check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, 100, c.LocalRetentionMs)
		}},
		{name: "local above total", overrides: set{"remote.storage.enable": "true", "retention.ms": "100", "local.retention.ms": "101"},
			want: "Invalid value 101 for configuration local.retention.ms: Value must not be more than retention.ms property value: 100"},
		{name: "local unlimited, total not", overrides: set{"remote.storage.enable": "true", "retention.bytes": "100", "local.retention.bytes": "-1"},
			want: "Invalid value -1 for configuration local.retention.bytes: Value must not be -1 as retention.bytes value is set as 100."},
		{name: "local limited, total not", overrides: set{"remote.storage.enable": "true", "retention.ms": "-1", "local.retention.ms": "5"}, check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, 5, c.LocalRetentionMs)
			require.EqualValues(t, -1, c.RetentionMs)
		}},
		{name: "local settings wait until the topic is tiered", overrides: set{"retention.ms": "100", "local.retention.ms": "101"}, check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, 100, c.LocalRetentionMs)
		}},
		{name: "an inherited local retention is cut", overrides: set{"remote.storage.enable": "true", "retention.bytes": "100"}, broker: set{"log.local.retention.bytes": "500"}, check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, 100, c.LocalRetentionBytes)
		}},
		{name: "no copies, so no shorter local tier", overrides: set{"remote.storage.enable": "true", "remote.log.copy.disable": "true", "local.retention.ms": "5"},
			want: "When `remote.log.copy.disable` is set to true, the `local.retention.ms` and `retention.ms` must be set to the identical value because there will be no more logs copied to the remote storage."},
		{name: "no copies, inherited local tier is widened", overrides: set{"remote.storage.enable": "true", "remote.log.copy.disable": "true"}, broker: set{"log.local.retention.ms": "5"}, check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, 7*dayMs, c.LocalRetentionMs)
		}},
		{name: "no object store", overrides: set{"remote.storage.enable": "true"}, broker: set{RemoteSystemEnable: "false"},
			want: "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage."},
		{name: "no object store, inherited", broker: set{RemoteSystemEnable: "false", "log.remote.storage.enable": "true"}, check: func(t *testing.T, c *TopicConfig) {
			require.False(t, c.RemoteStorage)
		}},
		{name: "copies wait for the local retention", overrides: set{"remote.storage.enable": "true", "local.retention.ms": "50", "remote.copy.lag.ms": "-1", "remote.copy.lag.bytes": "-1"}, check: func(t *testing.T, c *TopicConfig) {
			require.False(t, c.CopyDue(49, math.MaxInt64))
			require.True(t, c.CopyDue(50, 0))
		}},
		{name: "copies wait for either", overrides: set{"remote.storage.enable": "true", "remote.copy.lag.ms": "100", "remote.copy.lag.bytes": "10"}, check: func(t *testing.T, c *TopicConfig) {
			require.False(t, c.CopyDue(99, 9))
			require.True(t, c.CopyDue(100, 0))
			require.True(t, c.CopyDue(0, 10))
		}},
		{name: "copies do not wait by default", overrides: set{"remote.storage.enable": "true"}, check: func(t *testing.T, c *TopicConfig) {
			require.True(t, c.CopyDue(0, 0))
		}},
		{name: "copies later than local data may stay", overrides: set{"remote.storage.enable": "true", "local.retention.ms": "50", "remote.copy.lag.ms": "100"},
			want: "Invalid value 100 for configuration remote.copy.lag.ms: Value must not exceed local.retention.ms (effective value: 50)"},
		{name: "an inherited copy lag is cut", overrides: set{"remote.storage.enable": "true", "local.retention.ms": "50"}, broker: set{"log.remote.copy.lag.ms": "100"}, check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, 50, c.RemoteCopyLagMs)
		}},
		{name: "compact and tiered", overrides: set{"cleanup.policy": "compact", "remote.storage.enable": "true"}, check: func(t *testing.T, c *TopicConfig) {
			require.True(t, c.RemoteStorage && c.CleanupCompact && !c.CleanupDelete)
		}},
		{name: "compact topics do not inherit tiering", overrides: set{"cleanup.policy": "compact"}, broker: set{"log.remote.storage.enable": "true"}, check: func(t *testing.T, c *TopicConfig) {
			require.False(t, c.RemoteStorage)
		}},
		{name: "delete topics do", broker: set{"log.remote.storage.enable": "true"}, check: func(t *testing.T, c *TopicConfig) {
			require.True(t, c.RemoteStorage)
		}},

		{name: "ladder", overrides: set{"retention.tiers": "hot:1d,warm:30d"}, broker: set{"log.retention.hours": "1"}, check: func(t *testing.T, c *TopicConfig) {
			require.True(t, c.RemoteStorage)
			require.EqualValues(t, dayMs, c.LocalRetentionMs)
			require.EqualValues(t, 30*dayMs, c.RetentionMs)
			require.Equal(t, "hot:1d,warm:30d", c.Ladder().String())
		}},
		{name: "ladder of one", overrides: set{"retention.tiers": "hot:2d"}, broker: set{"log.remote.storage.enable": "true"}, check: func(t *testing.T, c *TopicConfig) {
			require.False(t, c.RemoteStorage)
			require.EqualValues(t, 2*dayMs, c.RetentionMs)
		}},
		{name: "ladder without end", overrides: set{"retention.tiers": "hot:1h,warm:1d,cold:forever"}, check: func(t *testing.T, c *TopicConfig) {
			require.EqualValues(t, -1, c.RetentionMs)
			require.EqualValues(t, hourMs, c.LocalRetentionMs)
		}},
		{name: "ladder and the same in Kafka's words", overrides: set{"retention.tiers": "hot:1d,warm:30d", "retention.ms": "2592000000", "local.retention.ms": "86400000", "remote.storage.enable": "true"}},
		{name: "ladder against retention.ms", overrides: set{"retention.tiers": "hot:1d,warm:30d", "retention.ms": "5"},
			want: "retention.tiers=hot:1d,warm:30d means retention.ms=2592000000, but retention.ms=5 is set too: remove one of the two"},
		{name: "ladder against remote.storage.enable", overrides: set{"retention.tiers": "hot:1d,warm:30d", "remote.storage.enable": "false"},
			want: "retention.tiers=hot:1d,warm:30d means remote.storage.enable=true, but remote.storage.enable=false is set too: remove one of the two"},
		{name: "ladder with a store that nobody knows", overrides: set{"retention.tiers": "hot:1d,glacier:30d"},
			want: "Invalid value hot:1d,glacier:30d for configuration retention.tiers: the tier glacier is not known here: tier.stores is warm, cold"},
		{name: "ladder with the broker's names", overrides: set{"retention.tiers": "hot:1d,glacier:30d"}, broker: set{"tier.stores": "glacier"}},
		{name: "a tiered topic without times has both rungs", overrides: set{"remote.storage.enable": "true"}, check: func(t *testing.T, c *TopicConfig) {
			require.Equal(t, "hot:7d,warm:7d", c.Ladder().String())
		}},
		{name: "Kafka's words make a ladder", overrides: set{"remote.storage.enable": "true", "local.retention.ms": "3600000", "retention.ms": "-1"}, check: func(t *testing.T, c *TopicConfig) {
			require.Equal(t, "hot:1h,warm:forever", c.Ladder().String())
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := ParseTopic(tc.overrides, tc.broker)
			require.NotNil(t, c)
			if tc.want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, tc.want)
				require.ErrorIs(t, err, ErrInvalid)
			}
			if tc.check != nil {
				tc.check(t, c)
			}
		})
	}
}

func TestSwitchingTieringOff(t *testing.T) {
	type set = map[string]string
	tiered := set{"remote.storage.enable": "true"}
	require.NoError(t, ValidateTopicChange(nil, set{}, nil))
	// A topic that is made may stay out of the broker's default; one that is tiered
	// by it, and says nothing itself, may not leave by the way.
	byDefault := set{"log.remote.storage.enable": "true"}
	require.NoError(t, ValidateNewTopic(set{"remote.storage.enable": "false"}, byDefault))
	require.ErrorContains(t, ValidateTopicChange(nil, set{"remote.storage.enable": "false"}, byDefault), "It is invalid to disable")
	require.ErrorIs(t, ValidateNewTopic(set{"retention.ms": "x"}, nil), ErrInvalid)
	require.NoError(t, ValidateTopicChange(set{}, set{}, nil))
	require.NoError(t, ValidateTopicChange(tiered, set{"remote.storage.enable": "true", "remote.log.copy.disable": "true"}, nil))
	require.NoError(t, ValidateTopicChange(tiered, set{"remote.storage.enable": "false", "remote.log.delete.on.disable": "true"}, nil))
	for _, off := range []set{{}, {"remote.storage.enable": "false"}, {"retention.tiers": "hot:1d"}} {
		require.ErrorContains(t, ValidateTopicChange(tiered, off, nil), "It is invalid to disable remote storage without deleting remote data.")
	}
	require.ErrorContains(t, ValidateTopicChange(set{"retention.tiers": "hot:1d,warm:2d"}, set{}, nil), "It is invalid to disable")
}

func TestParseTiersNamesTheMistake(t *testing.T) {
	for value, want := range map[string]string{
		"":                          "a ladder needs at least hot:AGE, for example hot:1d,warm:30d",
		"hot":                       `"hot" is not TIER:AGE, write for example warm:30d`,
		"hot:":                      `"hot:" is not TIER:AGE, write for example warm:30d`,
		"hot:1d,":                   `"" is not TIER:AGE, write for example warm:30d`,
		"hot:1d,Warm:2d":            `"Warm" cannot be a tier: its name is lower-case letters, digits and '-', beginning with a letter`,
		"hot:1d,hot:2d":             "hot is named twice: give each tier one age",
		"hot:30d,warm:1d":           "warm:1d is not older than hot:30d: an age counts from when the record was written, so ages must rise along the ladder",
		"hot:1d,warm:24h":           "warm:24h is not older than hot:1d: an age counts from when the record was written, so ages must rise along the ladder",
		"hot:forever,warm:1d":       "hot:forever never ends, so nothing would reach warm:1d: only the last tier may be forever",
		"hot:1":                     `hot:1: "1" is no age, write a number and a unit (ms, s, m, h, d, w, y) or forever`,
		"hot:d":                     `hot:d: "d" is no age, write a number and a unit (ms, s, m, h, d, w, y) or forever`,
		"hot:-1d":                   `hot:-1d: "-1d" is no age, write a number and a unit (ms, s, m, h, d, w, y) or forever`,
		"hot:1month":                `hot:1month: "1month" has no unit that is known, use one of ms, s, m, h, d, w, y`,
		"hot:1d12h":                 `hot:1d12h: "1d12h" has no unit that is known, use one of ms, s, m, h, d, w, y`,
		"hot:300000000y":            `hot:300000000y: "300000000y" is too long an age, write forever to keep records for good`,
		"hot:99999999999999999999d": `hot:99999999999999999999d: "99999999999999999999d" is too long an age, write forever to keep records for good`,
	} {
		_, err := ParseTiers(value)
		require.EqualError(t, err, want, value)
	}
	many, err := ParseTiers("hot:1s,a:2s,b:3s,c:4s,d:5s,e:6s,f:7s,g:8s")
	require.NoError(t, err)
	require.Len(t, many, 8)
	_, err = ParseTiers("hot:1s,a:2s,b:3s,c:4s,d:5s,e:6s,f:7s,g:8s,h:9s")
	require.EqualError(t, err, "9 tiers are too many, at most 8")
}

func TestFormatAge(t *testing.T) {
	for want, ms := range map[string]int64{"0s": 0, "1ms": 1, "90s": 90000, "1h": hourMs, "36h": 36 * hourMs, "14d": 14 * dayMs, "7y": 7 * 365 * dayMs, "forever": -1} {
		require.Equal(t, want, FormatAge(ms))
	}
	require.Equal(t, time.Duration(math.MaxInt64), Duration(math.MaxInt64))
	require.Equal(t, time.Second, Duration(1000))
}

func TestApply(t *testing.T) {
	text := func(s string) *string { return &s }
	type set = map[string]string
	for _, tc := range []struct {
		before  set
		changes []Change
		broker  set
		after   set
		err     string
	}{
		{set{"retention.ms": "1"}, []Change{{"retention.ms", OpSet, text(" 2 ")}}, nil, set{"retention.ms": "2"}, ""},
		{set{"retention.ms": "1"}, []Change{{"retention.ms", OpDelete, nil}}, nil, set{}, ""},
		{nil, []Change{{"retention.ms", OpDelete, nil}}, nil, set{}, ""},
		{nil, []Change{{"cleanup.policy", OpAppend, text("compact")}}, nil, set{"cleanup.policy": "delete,compact"}, ""},
		{nil, []Change{{"cleanup.policy", OpAppend, text("delete")}}, set{"log.cleanup.policy": "compact"}, set{"cleanup.policy": "compact,delete"}, ""},
		{set{"cleanup.policy": "compact"}, []Change{{"cleanup.policy", OpAppend, text("compact")}}, nil, set{"cleanup.policy": "compact"}, ""},
		{set{"cleanup.policy": "compact,delete"}, []Change{{"cleanup.policy", OpSubtract, text("compact")}}, nil, set{"cleanup.policy": "delete"}, ""},
		{set{"cleanup.policy": "delete"}, []Change{{"cleanup.policy", OpSubtract, text("delete")}}, nil, set{"cleanup.policy": ""}, ""},
		{nil, []Change{{"retention.ms", OpAppend, text("1")}}, nil, nil, "Can't APPEND to key retention.ms because its type is not LIST."},
		{nil, []Change{{"nonsense", OpSubtract, text("1")}}, nil, nil, "Can't SUBTRACT to key nonsense because its type is not LIST."},
		{nil, []Change{{"retention.ms", OpSet, nil}}, nil, nil, "Null value not supported for : retention.ms"},
		{nil, []Change{{"retention.ms", Op(7), text("1")}}, nil, nil, "Unknown config operation 7"},
	} {
		before := maps.Clone(tc.before)
		after, err := Apply(TopicResource, tc.before, tc.changes, tc.broker)
		require.Equal(t, before, tc.before, "Apply works on a copy")
		if tc.err != "" {
			require.EqualError(t, err, tc.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, tc.after, after)
	}
	require.Equal(t, set{"a": "b ", "retention.ms": "5"}, Normal(TopicResource, set{"a": "b ", "retention.ms": " 5"}))
}

func find(t *testing.T, entries []Entry, name string) Entry {
	t.Helper()
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Key.Name == name })
	require.GreaterOrEqual(t, i, 0, name)
	return entries[i]
}

func show(e Entry) string {
	one := func(v Value) string {
		text := "null"
		if v.Text != nil {
			text = *v.Text
		}
		return v.Source.String() + ":" + v.Name + "=" + text
	}
	parts := []string{one(Value{e.Key.Name, e.Text, e.Source})}
	for _, s := range e.Synonyms {
		parts = append(parts, one(s))
	}
	return strings.Join(parts, " ")
}

func TestDescribe(t *testing.T) {
	layers := Layers{
		Broker:         map[string]string{"log.retention.ms": "7"},
		ClusterDefault: map[string]string{"log.retention.ms": "8", "log.segment.bytes": "2097152"},
		Static:         map[string]string{"log.retention.hours": "3", "broker.id": "5", "num.partitions": "4", "group.consumer.session.timeout.ms": "50000"},
	}
	topic := DescribeTopic(map[string]string{"retention.ms": " 6"}, layers)
	require.Len(t, topic, len(TopicKeys()))
	require.Equal(t, "DYNAMIC_TOPIC_CONFIG:retention.ms=6 DYNAMIC_TOPIC_CONFIG:retention.ms=6 DYNAMIC_BROKER_CONFIG:log.retention.ms=7 DYNAMIC_DEFAULT_BROKER_CONFIG:log.retention.ms=8 STATIC_BROKER_CONFIG:log.retention.hours=3 DEFAULT_CONFIG:log.retention.hours=168", show(find(t, topic, "retention.ms")))
	require.Equal(t, "DYNAMIC_DEFAULT_BROKER_CONFIG:segment.bytes=2097152 DYNAMIC_DEFAULT_BROKER_CONFIG:log.segment.bytes=2097152 DEFAULT_CONFIG:log.segment.bytes=1073741824", show(find(t, topic, "segment.bytes")))
	require.Equal(t, "DEFAULT_CONFIG:remote.log.copy.disable=false DEFAULT_CONFIG:remote.log.copy.disable=false", show(find(t, topic, "remote.log.copy.disable")))
	hours := DescribeTopic(nil, Layers{Static: map[string]string{"log.retention.hours": "3"}})
	require.Equal(t, "STATIC_BROKER_CONFIG:retention.ms=10800000 STATIC_BROKER_CONFIG:log.retention.hours=3 DEFAULT_CONFIG:log.retention.hours=168", show(find(t, hours, "retention.ms")))

	layers.Defaults = map[string]string{"min.insync.replicas": "2", "num.partitions": "9"}
	require.Equal(t, "DEFAULT_CONFIG:min.insync.replicas=2 DEFAULT_CONFIG:min.insync.replicas=2", show(find(t, DescribeTopic(nil, layers), "min.insync.replicas")))

	ladder := DescribeTopic(map[string]string{"retention.tiers": "hot:1d,warm:2d"}, Layers{})
	require.Equal(t, "DYNAMIC_TOPIC_CONFIG:remote.storage.enable=true DYNAMIC_TOPIC_CONFIG:remote.storage.enable=true DEFAULT_CONFIG:log.remote.storage.enable=false", show(find(t, ladder, "remote.storage.enable")))
	require.Equal(t, "86400000", *find(t, ladder, "local.retention.ms").Text)

	broker := DescribeBroker(layers)
	require.Len(t, broker, len(BrokerKeys()))
	require.Equal(t, "STATIC_BROKER_CONFIG:num.partitions=4 STATIC_BROKER_CONFIG:num.partitions=4 DEFAULT_CONFIG:num.partitions=9", show(find(t, broker, "num.partitions")))
	require.Equal(t, "STATIC_BROKER_CONFIG:node.id=5 STATIC_BROKER_CONFIG:broker.id=5 DEFAULT_CONFIG:node.id=1", show(find(t, broker, "node.id")))
	require.Equal(t, "DYNAMIC_BROKER_CONFIG:log.retention.ms=7 DYNAMIC_BROKER_CONFIG:log.retention.ms=7 DYNAMIC_DEFAULT_BROKER_CONFIG:log.retention.ms=8 STATIC_BROKER_CONFIG:log.retention.hours=3 DEFAULT_CONFIG:log.retention.hours=168", show(find(t, broker, "log.retention.ms")))
	require.True(t, find(t, broker, "num.partitions").ReadOnly)
	require.False(t, find(t, broker, "log.retention.ms").ReadOnly)
	require.Len(t, DescribeClusterDefaults(layers), 2)

	group := DescribeGroup(map[string]string{"share.auto.offset.reset": "earliest"}, layers)
	require.Equal(t, "STATIC_BROKER_CONFIG:consumer.session.timeout.ms=50000 STATIC_BROKER_CONFIG:group.consumer.session.timeout.ms=50000 DEFAULT_CONFIG:group.consumer.session.timeout.ms=45000", show(find(t, group, "consumer.session.timeout.ms")))
	require.Equal(t, "DYNAMIC_GROUP_CONFIG:share.auto.offset.reset=earliest DYNAMIC_GROUP_CONFIG:share.auto.offset.reset=earliest DEFAULT_CONFIG:share.auto.offset.reset=latest", show(find(t, group, "share.auto.offset.reset")))
}

// A value that DescribeConfigs shows must be one that the broker acts on.
func TestDescribedTopicParsesToTheSame(t *testing.T) {
	layers := Layers{Static: map[string]string{"log.retention.hours": "3", "log.remote.storage.enable": "true"}}
	for _, overrides := range []map[string]string{nil, {"retention.tiers": "hot:1h,warm:2h"}, {"cleanup.policy": "compact", "durability": "replicated"}} {
		want, err := ParseTopic(overrides, layers.Flat())
		require.NoError(t, err)
		shown := map[string]string{}
		for _, e := range DescribeTopic(overrides, layers) {
			if e.Key.Name == "local.retention.ms" && *e.Text == "-2" {
				continue // means retention.ms, as absence does
			}
			shown[e.Key.Name] = *e.Text
		}
		got, err := ParseTopic(shown, nil)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestBrokerAndGroupChanges(t *testing.T) {
	require.NoError(t, ValidateBrokerChange("log.retention.ms", "5", true))
	require.EqualError(t, ValidateBrokerChange("log.retention.ms", "x", true), "Invalid value x for configuration log.retention.ms: Not a number of type LONG")
	require.EqualError(t, ValidateBrokerChange("num.partitions", "5", true), "Cannot update these configs dynamically: Set(num.partitions)")
	require.EqualError(t, ValidateBrokerChange("log.retention.mss", "5", true), "Unknown broker config name: log.retention.mss")
	require.Error(t, ValidateBrokerChange("min.insync.replicas", "2", true))
	require.NoError(t, ValidateBrokerChange("min.insync.replicas", "2", false))

	type set = map[string]string
	for _, tc := range []struct {
		overrides, broker set
		want              string
	}{
		{set{"consumer.session.timeout.ms": "50000"}, nil, ""},
		{set{"consumer.session.timeout.ms": "44999"}, nil, "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms"},
		{set{"consumer.session.timeout.ms": "60001"}, nil, "consumer.session.timeout.ms must be less than or equal to group.consumer.max.session.timeout.ms"},
		{set{"consumer.session.timeout.ms": "60001"}, set{"group.consumer.max.session.timeout.ms": "60001"}, ""},
		{set{"streams.num.standby.replicas": "3"}, nil, "streams.num.standby.replicas must be less than or equal to group.streams.max.standby.replicas"},
		{set{"retention.ms": "3", "share.isolation.level": "x"}, nil, "Unknown group config name: retention.ms; Invalid value x for configuration share.isolation.level: String must be one of: read_uncommitted, read_committed"},
		{set{"share.auto.offset.reset": "by_duration:P1DT2H3M4.5S"}, nil, ""},
		{set{"share.auto.offset.reset": "by_duration:PT"}, nil, "Invalid value by_duration:PT for configuration share.auto.offset.reset: expected latest, earliest or by_duration:PnDTnHnMn.nS"},
		{set{"share.auto.offset.reset": "none"}, nil, "Invalid value none for configuration share.auto.offset.reset: expected latest, earliest or by_duration:PnDTnHnMn.nS"},
	} {
		err := ValidateGroupChange(tc.overrides, tc.broker)
		if tc.want == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, tc.want)
		}
	}
}

func TestAddresses(t *testing.T) {
	check := func(name, value string) error { k, _ := Broker(name); _, err := k.Normalize(value); return err }
	for _, bad := range []string{"9644", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:65536", "::1:1"} {
		require.Error(t, check("admin.address", bad), bad)
	}
	require.NoError(t, check("admin.address", "[::1]:9644"))
	require.Error(t, check("pyroscope.address", "localhost:4040"))
	require.NoError(t, check("pyroscope.address", "http://localhost:4040"))
	require.Error(t, check("tier.stores", "warm,hot"))
}

func TestNearest(t *testing.T) {
	var names []string
	for _, k := range BrokerKeys() {
		names = append(names, k.Name)
	}
	for name, want := range map[string]string{
		"num.partition": "num.partitions", "lsiteners": "listeners", "log.retention.hour": "log.retention.hours",
		"node_id": "node.id", "zzz": "", "": "",
	} {
		require.Equal(t, want, Nearest(name, names), name)
	}
}

func FuzzParseTiers(f *testing.F) {
	for _, seed := range []string{"hot:1d,warm:30d,cold:7y", "hot:0s", "hot:1ms , warm:forever", "hot:9223372036854775807ms", "a:b:c,,", "hot:1d\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		ladder, err := ParseTiers(value)
		if err != nil {
			return
		}
		again, err := ParseTiers(ladder.String())
		require.NoError(t, err, ladder.String())
		require.Equal(t, ladder, again)
		require.Equal(t, HotTier, ladder[0].Tier)
		for i := 1; i < len(ladder); i++ {
			rises := ladder[i].UntilMs > ladder[i-1].UntilMs
			require.True(t, rises || (ladder[i].UntilMs == Forever && i == len(ladder)-1))
		}
		for name, v := range ladder.Settings() {
			require.NoError(t, ValidateTopicOverride(name, v))
		}
	})
}

// Whatever the bytes: no panic, errors are ours, and the normal form is a fixed
// point that parses into a config.
func FuzzTopicValue(f *testing.F) {
	for i, k := range TopicKeys() {
		f.Add(uint8(i), k.Default)
		f.Add(uint8(i), " -2 ")
	}
	f.Add(uint8(3), "0x1p-2")
	f.Add(uint8(3), "1e400")
	f.Fuzz(func(t *testing.T, i uint8, value string) {
		k := TopicKeys()[int(i)%len(TopicKeys())]
		normal, err := k.Normalize(value)
		var ours *Error
		if err != nil {
			require.True(t, errors.As(err, &ours) && ours.Name == k.Name)
			return
		}
		again, err := k.Normalize(normal)
		require.NoError(t, err)
		require.Equal(t, normal, again)
		c, err := ParseTopic(map[string]string{k.Name: value}, nil)
		require.NotNil(t, c)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
		}
		require.NotEqual(t, int64(-2), c.LocalRetentionMs)
	})
}

// A topic that tiers only because the broker's default says so may become
// compacted: that is no order to disable tiering.
func TestCompactionMayEndInheritedTiering(t *testing.T) {
	broker := map[string]string{"remote.log.storage.system.enable": "true", "log.remote.storage.enable": "true"}
	require.NoError(t, ValidateTopicChange(map[string]string{}, map[string]string{"cleanup.policy": "compact,delete"}, broker))
	require.Error(t, ValidateTopicChange(map[string]string{}, map[string]string{"remote.storage.enable": "false"}, broker))
}
