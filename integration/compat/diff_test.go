package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Every understood difference stands in the documentation, word for word.
func TestUnderstoodDifferencesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/compatibility.md")
	require.NoError(t, err)
	text := strings.Join(strings.Fields(strings.ReplaceAll(string(page), "`", "")), " ")
	for _, r := range rules {
		require.Contains(t, text, r.reason)
	}
}

func answerOf(pairs ...string) answer {
	a := make(answer)
	for i := 0; i < len(pairs); i += 2 {
		a[pairs[i]] = pairs[i+1]
	}
	return a
}

func TestCompare(t *testing.T) {
	said := func(name string, a answer) []step { return []step{{name: name, fate: answered, answer: a}} }
	for name, c := range map[string]struct {
		kafka, ours []step
		want        []difference
	}{
		"the same": {kafka: said("a", answerOf("x", "1")), ours: said("a", answerOf("x", "1"))},
		"a value": {kafka: said("a", answerOf("x", "1")), ours: said("a", answerOf("x", "2")),
			want: []difference{{step: "a", field: "x", kafka: "1", ours: "2"}}},
		"a fate": {kafka: []step{{name: "a", fate: closed}}, ours: said("a", answerOf("x", "2")),
			want: []difference{{step: "a", field: "fate", kafka: string(closed), ours: string(answered)}}},
		"a step that only one has": {kafka: said("a", nil), ours: said("b", nil), want: []difference{
			{step: "a", field: "step", kafka: string(answered), ours: absent},
			{step: "b", field: "step", kafka: absent, ours: string(answered)}}},
		"an element tells for its fields": {
			kafka: said("a", answerOf("T[x]", "present", "T[x].P[0]", "present", "T[x].P[0].E", "3")), ours: said("a", answerOf("T", "[]")),
			want: []difference{{step: "a", field: "T", kafka: absent, ours: "[]"}, {step: "a", field: "T[x]", kafka: "present", ours: absent}}},
		"words": {kafka: said("a", answerOf("ErrorMessage", `"this"`)), ours: said("a", answerOf("ErrorMessage", `"that"`)),
			want: []difference{{step: "a", field: "ErrorMessage", kafka: `"this"`, ours: `"that"`, wording: true}}},
		"a message and none": {kafka: said("a", answerOf("ErrorMessage", `"this"`)), ours: said("a", answerOf("ErrorMessage", "null")),
			want: []difference{{step: "a", field: "ErrorMessage", kafka: `"this"`, ours: "null"}}},
		"an order nobody promised": {kafka: said("a", answerOf("T.order", "1 2")), ours: said("a", answerOf("T.order", "2 1"))},
		"an order that is promised": {kafka: said("describe-topic-partitions/a", answerOf("T.order", "1 2")), ours: said("describe-topic-partitions/a", answerOf("T.order", "2 1")),
			want: []difference{{step: "describe-topic-partitions/a", field: "T.order", kafka: "1 2", ours: "2 1"}}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, compare(c.kafka, c.ours)) })
	}
}

func TestExplain(t *testing.T) {
	rules := []*understood{rule("why", `^a/`, `^x$`), rule("never", `^z/`, ``)}
	open := explain([]difference{{step: "a/b", field: "x"}, {step: "a/b", field: "y"}, {step: "a/b", field: "z", wording: true}}, rules)
	require.Equal(t, []difference{{step: "a/b", field: "y"}}, open)
	require.Equal(t, []int{1, 0}, []int{rules[0].uses, rules[1].uses})
}

// A feature that only Firn has is known by its name: another one would be news.
func TestFeaturesAreKnownByName(t *testing.T) {
	ours := func(name string) difference {
		return difference{step: "api-versions/plain v4", field: "SupportedFeatures[" + name + "]", kafka: absent, ours: "present"}
	}
	open := explain([]difference{ours("firn.version"), ours("share.version"), ours("firn.other")}, rules)
	require.Equal(t, []difference{ours("firn.other")}, open)
	at := func(reason string) int {
		return slices.IndexFunc(rules, func(r *understood) bool { return r.reason == reason && r.uses > 0 })
	}
	require.GreaterOrEqual(t, at(ownFeature), 0)
	require.GreaterOrEqual(t, at(missing), 0)
}

// What a second run does not show again was passing.
func TestBoth(t *testing.T) {
	first := []difference{{step: "a", field: "x", ours: "1"}, {step: "a", field: "y"}, {step: "b", field: "x"}}
	second := []difference{{step: "a", field: "x", ours: "2"}, {step: "b", field: "z"}}
	require.Equal(t, first[:1], both(first, second))
	require.Empty(t, both(first, nil))
}

// What differs from run to run is named, and lists are keyed by their elements.
func TestFlatten(t *testing.T) {
	n := &namer{names: map[string]string{}, port: 4711, drop: "-abc"}
	r := kmsg.NewPtrMetadataResponse()
	b := kmsg.NewMetadataResponseBroker()
	b.NodeID, b.Host, b.Port = 1, "h", 4711
	r.Brokers = append(r.Brokers, b)
	topic := kmsg.NewMetadataResponseTopic()
	topic.Topic, topic.TopicID = kmsg.StringPtr("orders-abc"), [16]byte{1}
	p := kmsg.NewMetadataResponseTopicPartition()
	p.Partition, p.Replicas = 3, []int32{1, 2}
	topic.Partitions = append(topic.Partitions, p)
	r.Topics = append(r.Topics, topic, topic)
	got := n.flatten(r)
	for field, want := range map[string]string{
		"Brokers[1].Port": "own port", "Topics.order": "orders orders", "Topics[orders]": "present", "Topics[orders#2]": "present",
		"Topics[orders].TopicID": "some id", "Topics[orders].Partitions[3].Replicas": "[1 2]", "ClusterID": "null",
		"Topics[orders].Topic": `"orders"`, "Topics[orders].Partitions[3].ErrorCode": "0",
	} {
		require.Equal(t, want, got[field], field)
	}
	require.NotContains(t, got, "Version")
}
