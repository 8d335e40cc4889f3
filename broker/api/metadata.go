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
	resp.ControllerID = s.controllerID(r, img)
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
		k.OfflineReplicas = offline(img, r, p.Replicas)
		k.ErrorCode = leaderError(img, r, p.Leader)
		if k.ErrorCode != 0 {
			k.Leader = -1
		} else if r.Version == 0 && len(k.OfflineReplicas) > 0 {
			k.ErrorCode = kerr.ReplicaNotAvailable.Code
		}
		if r.Version == 0 {
			// It has no list of those offline, and leaves them out.
			k.Replicas, k.ISR = online(img, r, p.Replicas), online(img, r, p.ISR)
		}
		out.Partitions = append(out.Partitions, k)
	}
	return out
}

const metadataKey = 3

// leaderError is what a partition answers whose leader is missing, or cannot be
// reached on the client's listener.
func leaderError(img *metadata.Image, r *wire.Request, leader int32) int16 {
	b := img.Broker(leader)
	switch {
	case b == nil: // no leader, or one that nobody knows
		return kerr.LeaderNotAvailable.Code
	case endpoint(b, r.Conn.Listener()) != nil:
		return 0
	case r.Key == metadataKey && r.Version < 6:
		return kerr.LeaderNotAvailable.Code
	}
	return kerr.ListenerNotFound.Code
}

// reachable says that a client on this listener can use a broker: it is neither
// gone nor fenced, and has the listener.
func reachable(img *metadata.Image, r *wire.Request, id int32) bool {
	b := img.Broker(id)
	return b != nil && !b.Fenced && endpoint(b, r.Conn.Listener()) != nil
}

// offline are the replicas whose broker a client cannot reach. The list is empty,
// never null.
func offline(img *metadata.Image, r *wire.Request, replicas []int32) []int32 {
	out := []int32{}
	for _, id := range replicas {
		if !reachable(img, r, id) {
			out = append(out, id)
		}
	}
	return out
}

// online are the others.
func online(img *metadata.Image, r *wire.Request, replicas []int32) []int32 {
	out := []int32{}
	for _, id := range replicas {
		if reachable(img, r, id) {
			out = append(out, id)
		}
	}
	return out
}

// controllerID is a broker in the list of brokers, any of which forwards changes:
// the one that leads the metadata, else this one, else another. −1 is nobody. An
// id that is not in the list would make Java's AdminClient wait.
func (s *Server) controllerID(r *wire.Request, img *metadata.Image) int32 {
	for _, id := range []int32{img.ControllerID(), s.nodeID()} {
		if reachable(img, r, id) {
			return id
		}
	}
	for b := range img.Brokers() {
		if reachable(img, r, b.ID) {
			return b.ID
		}
	}
	return -1
}

// describeTopicPartitions pages through topics by name (KIP-966).
func (s *Server) describeTopicPartitions(r *wire.Request, req *kmsg.DescribeTopicPartitionsRequest) {
	resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
	s.pageTopics(r, req, resp)
	r.Reply(resp)
}
