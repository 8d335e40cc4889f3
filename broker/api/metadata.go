package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// metadata answers which topics there are, who leads their partitions, and how
// to reach the brokers on the listener that was asked.
func (s *Server) metadata(r *wire.Request, req *kmsg.MetadataRequest) {
	img := s.Meta.Image()
	resp := kmsg.NewPtrMetadataResponse()
	if r.Version >= 10 && r.Version < 12 && asksByID(req) {
		refuseIDs(req, resp)
		r.Reply(resp)
		return
	}
	resp.ClusterID = ptr(img.ClusterID())
	resp.ControllerID = s.controllerID(img)
	resp.AuthorizedOperations = noAuthorizedOperations
	if req.IncludeClusterAuthorizedOperations && r.Version <= 10 {
		resp.AuthorizedOperations = clusterOperations
	}
	for b := range img.Brokers() {
		if b.Fenced {
			continue
		}
		if host, port, rack, ok := s.brokerAddr(r, b.ID); ok {
			k := kmsg.NewMetadataResponseBroker()
			k.NodeID, k.Host, k.Port, k.Rack = b.ID, host, port, rack
			resp.Brokers = append(resp.Brokers, k)
		}
	}
	if all := req.Topics == nil || (r.Version == 0 && len(req.Topics) == 0); all {
		resp.Topics = make([]kmsg.MetadataResponseTopic, 0, img.TopicCount())
		for t := range img.Topics() {
			resp.Topics = append(resp.Topics, s.metadataTopic(r, img, t))
		}
		permit(req, resp)
		r.Reply(resp)
		return
	}
	create := s.autoCreates(img) && (r.Version < 4 || req.AllowAutoTopicCreation)
	asked := make(map[topicKey]struct{}, len(req.Topics))
	for i := range req.Topics {
		key := keyOf(req.Topics[i].Topic, req.Topics[i].TopicID)
		if _, twice := asked[key]; twice {
			continue // answered once, as Kafka does
		}
		asked[key] = struct{}{}
		resp.Topics = append(resp.Topics, s.metadataAsked(r, img, &req.Topics[i], create))
	}
	permit(req, resp)
	r.Reply(resp)
}

// topicKey is how a request names a topic: by name, by id, or wrongly by both or
// neither.
type topicKey struct {
	name  string
	named bool
	id    record.TopicID
}

func keyOf(name *string, id record.TopicID) topicKey {
	if name == nil {
		return topicKey{id: id}
	}
	return topicKey{name: *name, named: true, id: id}
}

// asksByID reports whether a topic is asked for other than by its name.
func asksByID(req *kmsg.MetadataRequest) bool {
	for i := range req.Topics {
		if t := &req.Topics[i]; t.Topic == nil || !record.TopicID(t.TopicID).IsZero() {
			return true
		}
	}
	return false
}

// refuseIDs answers versions 10 and 11 that ask by topic id: the field is there,
// but it was not meant to be used yet (KIP-516).
func refuseIDs(req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) {
	resp.ControllerID = -1
	for i := range req.Topics {
		k := kmsg.NewMetadataResponseTopic()
		k.Topic, k.TopicID = req.Topics[i].Topic, req.Topics[i].TopicID
		if k.Topic == nil {
			k.Topic = ptr("")
		}
		k.ErrorCode = kerr.InvalidRequest.Code
		resp.Topics = append(resp.Topics, k)
	}
}

// permit tells what may be done with the topics, where that was asked for.
func permit(req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) {
	if !req.IncludeTopicAuthorizedOperations {
		return
	}
	for i := range resp.Topics {
		if resp.Topics[i].ErrorCode == 0 {
			resp.Topics[i].AuthorizedOperations = topicOperations
		}
	}
}

// metadataAsked answers one topic that was asked for by name or id.
func (s *Server) metadataAsked(r *wire.Request, img *metadata.Image, rt *kmsg.MetadataRequestTopic, create bool) kmsg.MetadataResponseTopic {
	id := record.TopicID(rt.TopicID)
	name := ""
	if rt.Topic != nil {
		name = *rt.Topic
	}
	if t := topicRef(img, name, id); t != nil {
		return s.metadataTopic(r, img, t)
	}
	out := kmsg.NewMetadataResponseTopic()
	out.AuthorizedOperations = noAuthorizedOperations
	switch {
	case !id.IsZero():
		out.TopicID, out.ErrorCode = id, kerr.UnknownTopicID.Code
		if r.Version < 12 {
			out.Topic = ptr("") // not nullable before
		}
		return out
	case validTopicName(name) != nil:
		out.ErrorCode = kerr.InvalidTopicException.Code
	default:
		out.ErrorCode = kerr.UnknownTopicOrPartition.Code
		if create {
			s.topics.autoCreate(name)
		}
	}
	out.Topic = &name
	return out
}

func (s *Server) metadataTopic(r *wire.Request, img *metadata.Image, t *metadata.Topic) kmsg.MetadataResponseTopic {
	out := kmsg.NewMetadataResponseTopic()
	out.Topic, out.TopicID, out.IsInternal = &t.Name, t.ID, t.Internal
	out.AuthorizedOperations = noAuthorizedOperations
	out.Partitions = make([]kmsg.MetadataResponseTopicPartition, 0, t.Partitions)
	for n, p := range img.Partitions(t.ID) {
		k := kmsg.NewMetadataResponseTopicPartition()
		k.Partition, k.Leader, k.LeaderEpoch = n, p.Leader, int32(p.LeaderEpoch)
		k.Replicas, k.ISR = p.Replicas, p.ISR
		k.OfflineReplicas = offline(img, p.Replicas)
		k.ErrorCode = s.leaderError(r, p.Leader)
		if k.ErrorCode != 0 {
			k.Leader = -1
		}
		out.Partitions = append(out.Partitions, k)
	}
	return out
}

// leaderError is what a partition answers whose leader is missing, or cannot be
// reached on the client's listener.
func (s *Server) leaderError(r *wire.Request, leader int32) int16 {
	if leader < 0 {
		return kerr.LeaderNotAvailable.Code
	}
	if _, _, _, ok := s.brokerAddr(r, leader); ok {
		return 0
	}
	if r.Version >= 6 {
		return kerr.ListenerNotFound.Code
	}
	return kerr.LeaderNotAvailable.Code
}

// offline are the replicas whose broker is fenced or gone. The list is empty,
// never null.
func offline(img *metadata.Image, replicas []int32) []int32 {
	out := []int32{}
	for _, id := range replicas {
		if b := img.Broker(id); b == nil || b.Fenced {
			out = append(out, id)
		}
	}
	return out
}

// controllerID is a live broker that takes changes: any of them forwards, and −1
// or a dead one would make Java's AdminClient wait.
func (s *Server) controllerID(img *metadata.Image) int32 {
	if b := img.Broker(img.ControllerID()); b != nil && !b.Fenced {
		return b.ID
	}
	return s.nodeID()
}

// describeTopicPartitions pages through topics by name (KIP-966).
func (s *Server) describeTopicPartitions(r *wire.Request, req *kmsg.DescribeTopicPartitionsRequest) {
	resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
	s.pageTopics(r, req, resp)
	r.Reply(resp)
}
