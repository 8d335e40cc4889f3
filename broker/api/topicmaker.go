package api

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/metadata"
)

// topicMaker makes topics that nobody asked for by CreateTopics: those a client
// wants to write to, and the internal ones. A name is made once at a time, on a
// goroutine of its own; who asked is told to come again.
type topicMaker struct {
	s *Server

	mu     sync.Mutex
	making map[string]struct{}
}

const (
	makeTimeout = 30 * time.Second
	// maxMaking bounds the topics under way; those beyond it wait for the
	// client's next try.
	maxMaking = 64
)

// autoCreates tells whether clients may make topics by asking for them.
func (s *Server) autoCreates(img *metadata.Image) bool {
	return s.brokerValue(img, "auto.create.topics.enable") == "true"
}

// autoCreate starts to make a topic with the broker's defaults.
func (m *topicMaker) autoCreate(name string) {
	spec := topicSpec{name: name, partitions: -1, replication: -1}
	if internalTopics[name] {
		spec = m.internalSpec(name)
	}
	m.start(spec)
}

// EnsureInternal starts to make one of Kafka's internal topics unless it exists,
// and returns it once it can be used, nil before.
func (s *Server) EnsureInternal(name string) *metadata.Topic {
	if t := s.Meta.Image().TopicByName(name); t != nil {
		return t
	}
	s.topics.start(s.topics.internalSpec(name))
	return nil
}

// internalSpec is an internal topic as Kafka makes it, but with no more replicas
// than there are brokers: with 3 on one node no group would ever work.
func (m *topicMaker) internalSpec(name string) topicSpec {
	img := m.s.Meta.Image()
	spec := topicSpec{name: name, internal: true}
	replicas := 3
	switch name {
	case offsetsTopic:
		spec.partitions = int32(m.s.brokerInt(img, "offsets.topic.num.partitions"))
		replicas = m.s.brokerInt(img, "offsets.topic.replication.factor")
		spec.configs = map[string]string{
			"cleanup.policy": "compact", "compression.type": "producer",
			"segment.bytes": strconv.Itoa(m.s.brokerInt(img, "offsets.topic.segment.bytes")),
		}
	default:
		spec.partitions = 50
		spec.configs = map[string]string{"cleanup.policy": "compact"}
	}
	spec.replication = int16(min(replicas, max(1, liveBrokers(img))))
	return spec
}

func (m *topicMaker) start(spec topicSpec) {
	m.mu.Lock()
	_, busy := m.making[spec.name]
	if busy || len(m.making) >= maxMaking {
		m.mu.Unlock()
		return
	}
	m.making[spec.name] = struct{}{}
	m.mu.Unlock()
	m.s.slow(makeTimeout, func(ctx context.Context) {
		specs := []topicSpec{spec}
		m.s.makeTopics(ctx, specs, false)
		m.mu.Lock()
		delete(m.making, spec.name)
		m.mu.Unlock()
		if err := specs[0].err; err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			m.s.Logger.Error("topic could not be made", "topic", spec.name, "err", err)
		}
	})
}
