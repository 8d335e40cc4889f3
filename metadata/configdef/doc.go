// Package configdef owns the definitions of every setting that Firn knows
// under Kafka's names, and Firn's own beside them: topics, brokers and groups.
//
// A [Key] says a setting's name, type (Kafka's ConfigType numbers), default,
// valid values, documentation, and when it may change. Over these tables the
// package parses, validates, combines and describes:
//
//   - [ParseTopic] turns a topic's overrides and the broker's settings into the
//     typed [TopicConfig] that the log, the tiers and the coordinators read;
//   - [ValidateTopicChange] is the door for CreateTopics, AlterConfigs and
//     IncrementalAlterConfigs, with Kafka's wording where Kafka has one;
//   - [Apply] carries out the four incremental operations (KIP-339);
//   - [DescribeTopic], [DescribeBroker] and [DescribeGroup] answer
//     DescribeConfigs with sources and synonyms (KIP-226);
//   - [ParseTiers] reads retention.tiers, the ladder that says the same as
//     local.retention.ms, retention.ms and remote.storage.enable together.
//
// Everything here is pure: no goroutine, no clock, no I/O. The tables are built
// once at program start and never change, so any goroutine may read them.
//
// Facts follow Apache Kafka 4.x (its configuration reference). Where Firn
// differs on purpose, the key's documentation says so.
package configdef
