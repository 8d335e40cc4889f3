package api

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metadata"
)

// What DescribeConfigs and CreateTopics tell of min.insync.replicas is what acks=all
// waits for: kafka-topics --under-min-isr-partitions counts by it.
func TestShownMinISRIsInForce(t *testing.T) {
	b := startData(t, configured{"min.insync.replicas": "4", "unclean.leader.election.enable": "true"})
	b.edit(func(e *metadata.Editor) { e.PutBroker(&metadata.Broker{ID: 3}) })
	c := b.dial()
	shown := func(kind kmsg.ConfigResourceType, resource, name string) string {
		req := kmsg.NewPtrDescribeConfigsRequest()
		rr := kmsg.NewDescribeConfigsRequestResource()
		rr.ResourceType, rr.ResourceName, rr.ConfigNames = kind, resource, []string{name}
		req.Resources, req.IncludeSynonyms = append(req.Resources, rr), true
		configs := ask[*kmsg.DescribeConfigsResponse](c, req, 4).Resources[0].Configs
		if len(configs) == 0 {
			return "none"
		}
		require.Equal(t, *configs[0].Value, *configs[0].ConfigSynonyms[0].Value)
		require.Equal(t, configs[0].Source, configs[0].ConfigSynonyms[0].Source)
		return *configs[0].Value + " " + configs[0].Source.String()
	}
	created := func(replicas int16) string {
		req := kmsg.NewPtrCreateTopicsRequest()
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = "new", 1, replicas
		req.Topics, req.ValidateOnly, req.TimeoutMillis = append(req.Topics, rt), true, 5000
		topic := ask[*kmsg.CreateTopicsResponse](c, req, 7).Topics[0]
		require.Zero(t, topic.ErrorCode, topic.ErrorMessage)
		for _, config := range topic.Configs {
			if config.Name == "min.insync.replicas" {
				return *config.Value + " " + kmsg.ConfigSource(config.Source).String()
			}
		}
		return "none"
	}
	const topic, broker = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker
	b.topic("one", nil, onBrokers(1))
	b.topic("two", nil, onBrokers(1, 2))
	b.topic("three", nil, onBrokers(1, 2, 3), onBrokers(3, 2, 1))
	b.topic("own", map[string]string{"min.insync.replicas": "3"}, onBrokers(1, 2, 3))
	growing := onBrokers(1, 2, 3)
	growing.Adding = []int32{3}
	b.topic("growing", nil, growing)
	check := func(inherited string, want map[string]string) {
		t.Helper()
		for name, want := range want {
			require.Equal(t, want, shown(topic, name, "min.insync.replicas"), name)
		}
		require.Equal(t, "3 DYNAMIC_TOPIC_CONFIG", shown(topic, "own", "min.insync.replicas"))
		require.Equal(t, inherited, shown(broker, "", "min.insync.replicas"))
		require.Equal(t, want["three"], shown(broker, "1", "min.insync.replicas"), "as topics of default.replication.factor")
		require.Equal(t, "3 DEFAULT_CONFIG", shown(broker, "1", "default.replication.factor"))
		require.Equal(t, want["one"], created(1))
		require.Equal(t, want["three"], created(3))
		require.Equal(t, want["three"], created(-1))
	}
	check("none", map[string]string{"one": "1 DEFAULT_CONFIG", "two": "1 DEFAULT_CONFIG", "growing": "1 DEFAULT_CONFIG", "three": "2 DEFAULT_CONFIG"})
	require.Equal(t, "false DEFAULT_CONFIG", shown(topic, "one", "unclean.leader.election.enable"), "the file has no say")

	b.edit(func(e *metadata.Editor) {
		e.SetConfigs(metadata.ConfigResource{Kind: metadata.ResourceBroker}, map[string]string{"min.insync.replicas": "1"})
		e.SetConfigs(metadata.ConfigResource{Kind: metadata.ResourceBroker, Name: "1"}, map[string]string{"unclean.leader.election.enable": "true"})
	})
	const all = "DYNAMIC_DEFAULT_BROKER_CONFIG"
	b.edit(func(e *metadata.Editor) { e.PutBroker(&metadata.Broker{ID: 3, Full: true}) }) // topics get no fewer replicas for it
	check("1 "+all, map[string]string{"one": "1 " + all, "two": "1 " + all, "growing": "1 " + all, "three": "1 " + all})
	require.Equal(t, "false DEFAULT_CONFIG", shown(topic, "one", "unclean.leader.election.enable"), "nor has one broker")
}
