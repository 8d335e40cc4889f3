package metadata

import "strconv"

// Policy is what the state machine itself reads of a topic's configs: the topic's
// override, else the default of all brokers in the metadata, else Firn's. A
// broker's own file has no say, since all nodes must come to the same end; what the
// first node's file sets goes into the metadata with FormatCluster.
type Policy struct {
	// minISR is min.insync.replicas, 0 if nobody set it.
	minISR int
	// Unclean is unclean.leader.election.enable.
	Unclean bool
	// Durability is "fsync", "replicated", or "" if nobody set it: then it is what
	// the broker's file says.
	Durability string
}

// The configs that a Policy comes from, by their names for topics and brokers.
const (
	configMinISR           = "min.insync.replicas"
	configUnclean          = "unclean.leader.election.enable"
	configDurability       = "durability"
	configBrokerDurability = "log.durability"
	configFlushMessages    = "flush.messages"
)

// PolicyOf works a topic's policy out from its overrides and those of all brokers.
// Values that are no number count as not set: they were checked when they were set.
func PolicyOf(topic, brokers map[string]string) Policy {
	var p Policy
	for _, from := range []map[string]string{topic, brokers} {
		if n, err := strconv.Atoi(from[configMinISR]); err == nil && n > 0 {
			p.minISR = n
			break
		}
	}
	unclean, ok := topic[configUnclean]
	if !ok {
		unclean = brokers[configUnclean]
	}
	p.Unclean = unclean == "true"
	switch {
	case topic[configDurability] != "":
		p.Durability = topic[configDurability]
	case topic[configFlushMessages] == "1":
		p.Durability = "fsync"
	default:
		p.Durability = brokers[configBrokerDurability]
	}
	return p
}

// MinISR is the smallest ISR of a partition with so many replicas (Partition.Factor)
// that moves the watermark and takes acks=all: min.insync.replicas where it is set,
// else 2 of three replicas or more and 1 of fewer; never more than replicas.
func (p Policy) MinISR(replicas int) int {
	n := p.minISR
	if n == 0 {
		n = 1
		if replicas >= 3 {
			n = 2
		}
	}
	return max(min(n, replicas), 1)
}

// Policy is a topic's policy.
func (i *Image) Policy(t *Topic) Policy {
	return PolicyOf(t.Configs, i.Configs(ResourceBroker, ""))
}

// MinISR is Policy.MinISR of a topic. Pass Partition.Factor for replicas.
func MinISR(img *Image, topic *Topic, replicas int) int {
	return img.Policy(topic).MinISR(replicas)
}
