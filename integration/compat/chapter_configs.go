package main

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

func describing(kind kmsg.ConfigResourceType, name string, keys ...string) *kmsg.DescribeConfigsRequest {
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.ConfigNames = kind, name, keys
	req.Resources = append(req.Resources, r)
	req.IncludeSynonyms = true
	return req
}

func configs(s *script) {
	name, _ := s.topic("configured", 1, "retention.ms", "1000", "cleanup.policy", "compact,delete")
	const topic, broker, logger, metrics, group = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker,
		kmsg.ConfigResourceTypeBrokerLogger, kmsg.ConfigResourceType(16), kmsg.ConfigResourceTypeGroupConfig
	s.each("topic", 1, 4, func(int16) kmsg.Request { return describing(topic, name) })
	s.each("topic without synonyms", 1, 4, func(int16) kmsg.Request {
		req := describing(topic, name, "retention.ms", "segment.bytes")
		req.IncludeSynonyms = false
		return req
	})
	s.each("two keys and an unknown one", 1, 4, func(int16) kmsg.Request {
		return describing(topic, name, "retention.ms", "cleanup.policy", "no.such.config")
	})
	empty := describing(topic, name)
	empty.Resources[0].ConfigNames = []string{}
	s.ask("no key", 4, empty)
	s.ask("unknown topic", 4, describing(topic, s.name("nothing")))
	s.ask("bad topic name", 4, describing(topic, "a/b"))
	s.ask("empty topic name", 4, describing(topic, ""))
	s.each("broker", 1, 4, func(int16) kmsg.Request { return describing(broker, "1") })
	s.ask("broker defaults", 4, describing(broker, ""))
	s.ask("another broker", 4, describing(broker, "7"))
	s.ask("broker by word", 4, describing(broker, "one"))
	s.ask("loggers of another broker", 4, describing(logger, "7"))
	s.ask("loggers of no broker", 4, describing(logger, ""))
	s.ask("client metrics of no name", 4, describing(metrics, ""))
	s.ask("client metrics", 4, describing(metrics, s.name("metrics")))
	s.ask("group", 4, describing(group, s.name("a-group")))
	s.ask("group of no name", 4, describing(group, ""))
	for _, kind := range []kmsg.ConfigResourceType{0, 1, 3, 5, 64} {
		s.ask("resource type "+string(rune('0'+kind)), 4, describing(kind, "x"))
	}
	twice := describing(topic, name, "retention.ms")
	twice.Resources = append(twice.Resources, twice.Resources[0])
	s.ask("twice", 4, twice)
}

type change struct {
	name string
	op   kmsg.IncrementalAlterConfigOp
	to   *string
}

func to(v string) *string { return &v }

const (
	set      = kmsg.IncrementalAlterConfigOpSet
	unset    = kmsg.IncrementalAlterConfigOpDelete
	add      = kmsg.IncrementalAlterConfigOpAppend
	subtract = kmsg.IncrementalAlterConfigOpSubtract
)

func altering(kind kmsg.ConfigResourceType, name string, changes ...change) *kmsg.IncrementalAlterConfigsRequest {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kind, name
	for _, c := range changes {
		k := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		k.Name, k.Op, k.Value = c.name, c.op, c.to
		r.Configs = append(r.Configs, k)
	}
	req.Resources = append(req.Resources, r)
	return req
}

func replacing(kind kmsg.ConfigResourceType, name string, pairs ...string) *kmsg.AlterConfigsRequest {
	req := kmsg.NewPtrAlterConfigsRequest()
	r := kmsg.NewAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kind, name
	for i := 0; i+1 < len(pairs); i += 2 {
		k := kmsg.NewAlterConfigsRequestResourceConfig()
		k.Name, k.Value = pairs[i], to(pairs[i+1])
		r.Configs = append(r.Configs, k)
	}
	req.Resources = append(req.Resources, r)
	return req
}

func alterConfigs(s *script) {
	name, _ := s.topic("altered", 1)
	const topic, broker, group = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeGroupConfig
	keys := []string{"retention.ms", "cleanup.policy", "max.message.bytes", "leader.replication.throttled.replicas", "segment.ms"}
	// Both brokers take a moment to show a change.
	look := func(label string, want map[string]string) {
		s.until(4, describing(topic, name, keys...), func(r kmsg.Response) bool {
			got := make(map[string]string)
			for _, c := range r.(*kmsg.DescribeConfigsResponse).Resources[0].Configs {
				if c.Source == kmsg.ConfigSourceDynamicTopicConfig {
					got[c.Name] = *c.Value
				}
			}
			if len(got) != len(want) {
				return false
			}
			for k, v := range want {
				if got[k] != v {
					return false
				}
			}
			return true
		})
		s.ask("after "+label, 4, describing(topic, name, keys...))
	}
	s.each("set", 0, 1, func(int16) kmsg.Request {
		return altering(topic, name, change{"retention.ms", set, to("5000")}, change{"max.message.bytes", set, to("2000")})
	})
	look("set", map[string]string{"retention.ms": "5000", "max.message.bytes": "2000"})
	s.ask("append and delete", 1, altering(topic, name, change{"cleanup.policy", add, to("compact")}, change{"max.message.bytes", unset, nil}))
	look("append and delete", map[string]string{"retention.ms": "5000", "cleanup.policy": "delete,compact"})
	s.ask("append what is there", 1, altering(topic, name, change{"cleanup.policy", add, to("compact")}))
	s.ask("subtract", 1, altering(topic, name, change{"cleanup.policy", subtract, to("delete")}))
	look("subtract", map[string]string{"retention.ms": "5000", "cleanup.policy": "compact"})
	s.ask("subtract what is not there", 1, altering(topic, name, change{"cleanup.policy", subtract, to("delete")}))
	s.ask("append to a number", 1, altering(topic, name, change{"retention.ms", add, to("5")}))
	s.ask("subtract from a number", 1, altering(topic, name, change{"retention.ms", subtract, to("5")}))
	s.ask("append null", 1, altering(topic, name, change{"cleanup.policy", add, nil}))
	s.ask("set null", 1, altering(topic, name, change{"retention.ms", set, nil}))
	s.ask("unknown operation", 1, altering(topic, name, change{"retention.ms", 9, to("5")}))
	s.ask("unknown config", 1, altering(topic, name, change{"no.such.config", set, to("5")}))
	s.ask("delete an unknown config", 1, altering(topic, name, change{"no.such.config", unset, nil}))
	s.ask("delete what is not set", 1, altering(topic, name, change{"segment.ms", unset, nil}))
	s.ask("bad value", 1, altering(topic, name, change{"retention.ms", set, to("never")}))
	s.ask("good and bad", 1, altering(topic, name, change{"segment.ms", set, to("1000")}, change{"retention.ms", set, to("never")}))
	s.ask("key twice", 1, altering(topic, name, change{"retention.ms", set, to("1")}, change{"retention.ms", set, to("2")}))
	s.ask("no change", 1, altering(topic, name))
	s.ask("unknown topic", 1, altering(topic, s.name("nothing"), change{"retention.ms", set, to("5")}))
	s.ask("bad topic name", 1, altering(topic, "a/b", change{"retention.ms", set, to("5")}))
	s.ask("empty topic name", 1, altering(topic, "", change{"retention.ms", set, to("5")}))
	only := altering(topic, name, change{"retention.ms", set, to("7")})
	only.ValidateOnly = true
	s.ask("validate only", 1, only)
	only = altering(topic, name, change{"retention.ms", set, to("x")})
	only.ValidateOnly = true
	s.ask("validate only, bad", 1, only)
	look("refusals", map[string]string{"retention.ms": "5000", "cleanup.policy": "compact"})
	twice := altering(topic, name, change{"retention.ms", set, to("5")})
	twice.Resources = append(twice.Resources, altering(topic, name, change{"segment.ms", set, to("5000")}).Resources...)
	s.ask("resource twice", 1, twice)
	two := altering(topic, name, change{"retention.ms", set, to("6000")})
	two.Resources = append(two.Resources, altering(topic, s.name("nothing"), change{"segment.ms", set, to("5")}).Resources...)
	s.ask("one of two unknown", 1, two)
	look("one of two", map[string]string{"retention.ms": "6000", "cleanup.policy": "compact"})

	s.each("replace", 0, 2, func(int16) kmsg.Request { return replacing(topic, name, "segment.ms", "9000") })
	look("replace", map[string]string{"segment.ms": "9000"})
	s.ask("replace with an unknown config", 2, replacing(topic, name, "no.such.config", "1"))
	s.ask("replace with a bad value", 2, replacing(topic, name, "retention.ms", "x"))
	null := replacing(topic, name, "retention.ms", "x")
	null.Resources[0].Configs[0].Value = nil
	s.ask("replace with null", 2, null)
	s.ask("replace unknown topic", 2, replacing(topic, s.name("nothing"), "retention.ms", "1"))
	s.ask("replace with a key twice", 2, replacing(topic, name, "retention.ms", "1", "retention.ms", "2"))
	s.ask("replace with nothing", 2, replacing(topic, name))
	look("replace with nothing", nil)

	s.ask("broker", 1, altering(broker, "1", change{"log.cleaner.threads", set, to("1")}))
	s.ask("broker reset", 1, altering(broker, "1", change{"log.cleaner.threads", unset, nil}))
	s.ask("broker default", 1, altering(broker, "", change{"log.cleaner.threads", set, to("1")}))
	s.ask("broker default reset", 1, altering(broker, "", change{"log.cleaner.threads", unset, nil}))
	s.ask("broker, read-only", 1, altering(broker, "1", change{"num.partitions.not", set, to("1")}))
	s.ask("broker, not dynamic", 1, altering(broker, "1", change{"broker.id", set, to("1")}))
	s.ask("broker, per broker only", 1, altering(broker, "", change{"listeners", set, to("PLAINTEXT://:1")}))
	s.ask("broker, bad value", 1, altering(broker, "1", change{"log.retention.ms", set, to("x")}))
	s.ask("broker, min.insync.replicas", 1, altering(broker, "1", change{"min.insync.replicas", set, to("1")}))
	s.ask("another broker", 1, altering(broker, "7", change{"log.retention.ms", set, to("1000")}))
	s.ask("broker by word", 1, altering(broker, "one", change{"log.retention.ms", set, to("1000")}))
	s.ask("group", 1, altering(group, s.name("g"), change{"consumer.session.timeout.ms", set, to("50000")}))
	s.until(4, describing(group, s.name("g"), "consumer.session.timeout.ms"), func(r kmsg.Response) bool {
		return *r.(*kmsg.DescribeConfigsResponse).Resources[0].Configs[0].Value == "50000"
	})
	s.ask("group described", 4, describing(group, s.name("g"), "consumer.session.timeout.ms"))
	s.ask("group, unknown config", 1, altering(group, s.name("g"), change{"no.such.config", set, to("5")}))
	s.ask("group, out of range", 1, altering(group, s.name("g"), change{"consumer.session.timeout.ms", set, to("1")}))
	s.ask("group of no name", 1, altering(group, "", change{"consumer.session.timeout.ms", set, to("50000")}))
	s.ask("resource type 0", 1, altering(0, "x", change{"a", set, to("5")}))
	s.ask("resource type 3", 1, altering(3, "x", change{"a", set, to("5")}))
	s.ask("resource type 64", 1, altering(64, "x", change{"a", set, to("5")}))
	s.ask("replace resource type 3", 2, replacing(3, "x", "a", "b"))
}
