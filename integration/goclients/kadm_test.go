package goclients

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/integration/harness"
)

// TestAdminTopics makes, widens, describes, configures and deletes topics.
func TestAdminTopics(t *testing.T) {
	b := start(t)
	ctx := deadline(t)
	adm := b.AdminClient(t)

	retention, unknown := "123456", "1"
	made, err := adm.CreateTopics(ctx, 2, 1, map[string]*string{"retention.ms": &retention}, "a", "b")
	require.NoError(t, err)
	require.NoError(t, made.Error())
	require.EqualValues(t, 2, made["a"].NumPartitions)
	require.Equal(t, retention, *made["a"].Configs["retention.ms"].Value)
	for name, want := range map[string]error{"a": kerr.TopicAlreadyExists, "no good": kerr.InvalidTopicException, "..": kerr.InvalidTopicException} {
		_, err = adm.CreateTopic(ctx, 1, 1, nil, name)
		require.ErrorIs(t, err, want, name)
	}
	_, err = adm.CreateTopic(ctx, 1, 5, nil, "wide")
	require.ErrorIs(t, err, kerr.InvalidReplicationFactor)
	_, err = adm.CreateTopic(ctx, 1, 1, map[string]*string{"no.such.config": &unknown}, "odd")
	require.ErrorIs(t, err, kerr.InvalidConfig)
	_, err = adm.ValidateCreateTopics(ctx, 1, 1, nil, "dry")
	require.NoError(t, err)

	grown, err := adm.UpdatePartitions(ctx, 5, "a")
	require.NoError(t, err)
	require.NoError(t, grown.Error())
	shrunk, err := adm.UpdatePartitions(ctx, 3, "a")
	require.NoError(t, err)
	require.ErrorIs(t, shrunk.Error(), kerr.InvalidPartitions)

	topics, err := adm.ListTopics(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, slices.Sorted(maps.Keys(topics)))
	require.Len(t, topics["a"].Partitions, 5)
	for _, p := range topics["a"].Partitions {
		require.Equal(t, []int32{1}, p.Replicas)
		require.Equal(t, []int32{1}, p.ISR)
		require.EqualValues(t, 1, p.Leader)
	}

	altered, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{
		{Op: kadm.SetConfig, Name: "segment.bytes", Value: kadm.StringPtr("2097152")},
		{Op: kadm.DeleteConfig, Name: "retention.ms"},
		{Op: kadm.AppendConfig, Name: "cleanup.policy", Value: kadm.StringPtr("delete")},
	}, "a")
	require.NoError(t, err)
	require.NoError(t, altered[0].Err)
	altered, err = adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "segment.bytes", Value: kadm.StringPtr("none")}}, "a")
	require.NoError(t, err)
	require.ErrorIs(t, altered[0].Err, kerr.InvalidConfig)
	described, err := adm.DescribeTopicConfigs(ctx, "a")
	require.NoError(t, err)
	source := map[string]string{}
	for _, c := range described[0].Configs {
		source[c.Key] = fmt.Sprint(c.MaybeValue(), " ", c.Source)
	}
	require.Equal(t, "2097152 "+kmsg.ConfigSourceDynamicTopicConfig.String(), source["segment.bytes"])
	require.Equal(t, "604800000 "+kmsg.ConfigSourceDefaultConfig.String(), source["retention.ms"])

	brokers, err := adm.AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "log.retention.ms", Value: kadm.StringPtr("777")}})
	require.NoError(t, err)
	require.NoError(t, brokers[0].Err)
	described, err = adm.DescribeTopicConfigs(ctx, "b")
	require.NoError(t, err)
	for _, c := range described[0].Configs {
		if c.Key == "retention.ms" {
			require.Equal(t, retention, c.MaybeValue(), "the topic's own setting is stronger")
		}
	}
	described, err = adm.DescribeTopicConfigs(ctx, "a")
	require.NoError(t, err)
	for _, c := range described[0].Configs {
		if c.Key == "retention.ms" {
			require.Equal(t, "777", c.MaybeValue())
		}
	}

	gone, err := adm.DeleteTopics(ctx, "a", "b", "never")
	require.NoError(t, err)
	require.NoError(t, gone["a"].Err)
	require.NoError(t, gone["b"].Err)
	require.ErrorIs(t, gone["never"].Err, kerr.UnknownTopicOrPartition)
	topics, err = b.AdminClient(t).ListTopics(ctx) // one without a cache
	require.NoError(t, err)
	require.Empty(t, topics)
}

// TestAdminOffsets asks for each special timestamp, deletes records, and
// describes the directory that holds the rest.
func TestAdminOffsets(t *testing.T) {
	b := start(t)
	ctx := deadline(t)
	b.CreateTopic(t, "o", 1, "remote.storage.enable", "true", "segment.bytes", "1048576", "local.retention.bytes", "1048576")
	c := b.Client(t, kgo.DefaultProduceTopic("o"), kgo.ProducerBatchMaxBytes(200_000), kgo.ProducerBatchCompression(kgo.NoCompression()))
	adm := kadm.NewClient(c)
	base := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	const n, newest = 80, 33
	for i := range n {
		at := base.Add(time.Duration(i) * time.Second)
		if i == newest {
			at = base.Add(30 * time.Minute)
		}
		require.NoError(t, c.ProduceSync(ctx, &kgo.Record{Value: make([]byte, 100_000), Timestamp: at}).FirstErr())
	}
	offset := func(l kadm.ListedOffsets, err error) int64 {
		t.Helper()
		require.NoError(t, err)
		require.NoError(t, l.Error())
		o, ok := l.Lookup("o", 0)
		require.True(t, ok)
		return o.Offset
	}
	require.EqualValues(t, 0, offset(adm.ListStartOffsets(ctx, "o")))
	require.EqualValues(t, n, offset(adm.ListEndOffsets(ctx, "o")))
	require.EqualValues(t, n, offset(adm.ListCommittedOffsets(ctx, "o")))
	require.EqualValues(t, newest, offset(adm.ListMaxTimestampOffsets(ctx, "o")))
	require.EqualValues(t, 20, offset(adm.ListOffsetsAfterMilli(ctx, base.Add(20*time.Second).UnixMilli(), "o")))
	require.EqualValues(t, newest, offset(adm.ListOffsetsAfterMilli(ctx, base.Add(2*time.Minute).UnixMilli(), "o")))

	harness.Eventually(t, 30*time.Second, func() string {
		local, remote := offset(adm.ListLocalLogStartOffsets(ctx, "o")), offset(adm.ListLatestRemoteOffsets(ctx, "o"))
		if local < 20 || remote < local-1 {
			return fmt.Sprintf("local start %d, latest remote %d", local, remote)
		}
		return ""
	})
	// The same answers once the records are in the bucket alone.
	require.EqualValues(t, 0, offset(adm.ListStartOffsets(ctx, "o")))
	require.EqualValues(t, 5, offset(adm.ListOffsetsAfterMilli(ctx, base.Add(5*time.Second).UnixMilli(), "o")))
	require.EqualValues(t, newest, offset(adm.ListMaxTimestampOffsets(ctx, "o")))
	// Pending uploads (-6) belong to no client's list: ask by hand.
	req := kmsg.NewPtrListOffsetsRequest()
	topic, part := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	req.ReplicaID, topic.Topic, part.Timestamp, part.CurrentLeaderEpoch = -1, "o", -6, -1
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, c)
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode))

	deleted, err := adm.DeleteRecords(ctx, kadm.Offsets{"o": {0: {Topic: "o", Partition: 0, At: 60}}})
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
	require.EqualValues(t, 60, deleted["o"][0].LowWatermark)
	require.EqualValues(t, 60, offset(adm.ListStartOffsets(ctx, "o")))
	require.EqualValues(t, 60, consume(ctx, t, b, n-60, kgo.ConsumeTopics("o"))[0].Offset)
	deleted, err = adm.DeleteRecords(ctx, kadm.Offsets{"o": {0: {Topic: "o", Partition: 0, At: n + 1}}})
	require.NoError(t, err)
	require.ErrorIs(t, deleted.Error(), kerr.OffsetOutOfRange)

	dirs, err := adm.DescribeAllLogDirs(ctx, nil)
	require.NoError(t, err)
	var size int64
	dirs.Each(func(d kadm.DescribedLogDir) {
		require.NoError(t, d.Err)
		require.Positive(t, d.TotalBytes)
		require.Positive(t, d.UsableBytes)
		d.Topics.Each(func(p kadm.DescribedLogDirPartition) {
			if p.Topic == "o" {
				size += p.Size
			}
		})
	})
	require.Positive(t, size)
	require.Less(t, size, int64(n*100_000), "what left the disk is counted still")
}

// TestAdminGroups commits, lists, describes and deletes offsets and groups.
func TestAdminGroups(t *testing.T) {
	b := start(t)
	ctx := deadline(t)
	b.CreateTopic(t, "x", 2)
	b.CreateTopic(t, "y", 1)
	adm := b.AdminClient(t)
	var offsets kadm.Offsets
	offsets.AddOffset("x", 0, 11, -1)
	offsets.AddOffset("x", 1, 12, -1)
	offsets.AddOffset("y", 0, 13, -1)
	require.NoError(t, adm.CommitAllOffsets(ctx, "manual", offsets))
	b.Restart() // the offsets outlive the process, the client's connections do not
	adm = b.AdminClient(t)
	fetched, err := adm.FetchOffsets(ctx, "manual")
	require.NoError(t, err)
	require.NoError(t, fetched.Error())
	require.Len(t, fetched.Offsets().Sorted(), 3)
	offsets.Each(func(want kadm.Offset) {
		got, ok := fetched.Lookup(want.Topic, want.Partition)
		require.True(t, ok)
		require.Equal(t, want.At, got.At)
	})

	groups, err := adm.ListGroups(ctx)
	require.NoError(t, err)
	require.Equal(t, "Empty", groups["manual"].State)
	dropped, err := adm.DeleteOffsets(ctx, "manual", kadm.TopicsSet{"x": {0: {}}})
	require.NoError(t, err)
	require.NoError(t, dropped.Error())
	fetched, err = adm.FetchOffsets(ctx, "manual")
	require.NoError(t, err)
	_, still := fetched.Lookup("x", 0)
	require.False(t, still)

	// A topic's deletion takes the offsets in it along.
	_, err = adm.DeleteTopic(ctx, "y")
	require.NoError(t, err)
	harness.Eventually(t, 20*time.Second, func() string {
		fetched, err := adm.FetchOffsets(ctx, "manual")
		if err != nil {
			return err.Error()
		}
		if o, ok := fetched.Lookup("y", 0); ok {
			return fmt.Sprintf("offset %d of the deleted topic is there", o.At)
		}
		return ""
	})

	// A group with members can be neither deleted nor have its offsets deleted.
	member := b.Client(t, kgo.ConsumerGroup("live"), kgo.ConsumeTopics("x"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	p := b.Client(t, kgo.DefaultProduceTopic("x"))
	require.NoError(t, p.ProduceSync(ctx, kgo.StringRecord("a")).FirstErr())
	poll(ctx, t, member, 1)
	require.NoError(t, member.CommitUncommittedOffsets(ctx))
	described, err := adm.DescribeGroups(ctx, "live", "manual")
	require.NoError(t, err)
	require.Len(t, described["live"].Members, 1)
	require.Equal(t, "127.0.0.1", described["live"].Members[0].ClientHost[len(described["live"].Members[0].ClientHost)-9:])
	_, err = adm.DeleteGroup(ctx, "live")
	require.ErrorIs(t, err, kerr.NonEmptyGroup)
	dropped, err = adm.DeleteOffsets(ctx, "live", kadm.TopicsSet{"x": {0: {}}})
	require.NoError(t, err)
	require.ErrorIs(t, dropped["x"][0], kerr.GroupSubscribedToTopic)
	member.Close()
	harness.Eventually(t, 20*time.Second, func() string {
		if _, err := adm.DeleteGroup(ctx, "live"); err != nil {
			return err.Error()
		}
		return ""
	})
	gone, err := adm.DeleteGroups(ctx, "manual", "never")
	require.NoError(t, err)
	require.NoError(t, gone["manual"].Err)
	require.ErrorIs(t, gone["never"].Err, kerr.GroupIDNotFound)
	groups, err = adm.ListGroups(ctx)
	require.NoError(t, err)
	require.Empty(t, groups)
}
