package api

import (
	"maps"
	"strconv"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/record"
)

// inMetadata are the settings that a topic inherits from the cluster's defaults
// alone (metadata.Policy): a broker's own have no say, so none is shown.
var inMetadata = []string{configdef.MinInsyncReplicas, "unclean.leader.election.enable"}

// shownLayers are layers as they are told to clients: with the defaults that depend
// on the cluster, for topics of so many replicas, and without what a file sets to no
// effect.
func (s *Server) shownLayers(img *metadata.Image, factor int) configdef.Layers {
	l := s.layers(img)
	l.Static = withoutInMetadata(l.Static)
	l.Defaults = map[string]string{
		configdef.MinInsyncReplicas:  strconv.Itoa(metadata.PolicyOf(nil, nil).MinISR(factor)),
		"default.replication.factor": strconv.Itoa(int(s.defaultReplication(img))),
	}
	return l
}

// topicLayers are shownLayers as far as topics of so many replicas go by them.
func (s *Server) topicLayers(img *metadata.Image, factor int) configdef.Layers {
	l := s.shownLayers(img, factor)
	l.Broker = withoutInMetadata(l.Broker)
	return l
}

func withoutInMetadata(settings map[string]string) map[string]string {
	out := maps.Clone(settings)
	for _, name := range inMetadata {
		delete(out, name)
	}
	return out
}

// topicFactor is the number of replicas that min.insync.replicas is held against,
// the least of the topic's partitions.
func topicFactor(img *metadata.Image, t *metadata.Topic) int {
	least := 0
	for n := range t.Partitions {
		if p := img.Partition(record.TopicPartition{Topic: t.ID, Partition: n}); p != nil && (least == 0 || p.Factor() < least) {
			least = p.Factor()
		}
	}
	return least
}
