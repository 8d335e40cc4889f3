package api

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/raftnode"
)

// Quorum is what the handlers see of the servers that hold the metadata.
type Quorum interface {
	Quorum(ctx context.Context) (raftnode.Quorum, error)
	AddVoter(ctx context.Context, dir uuid.UUID, addr string, prev uint64) error
	Demote(ctx context.Context, dir uuid.UUID, prev uint64) error
}

// quorumTopic is Kafka's name for the metadata log.
const quorumTopic = "__cluster_metadata"

// quorumTimeout bounds a question to the metadata leader.
const quorumTimeout = 10 * time.Second

// describeQuorum tells who votes on the metadata and how far each is (KIP-595,
// KIP-836, KIP-853). Offsets are one above Raft's indexes, so that an end is
// exclusive as everywhere.
func (s *Server) describeQuorum(r *wire.Request, req *kmsg.DescribeQuorumRequest) {
	resp := kmsg.NewPtrDescribeQuorumResponse()
	if !asksForQuorum(req) {
		for i := range req.Topics {
			t := kmsg.NewDescribeQuorumResponseTopic()
			t.Topic = req.Topics[i].Topic
			for j := range req.Topics[i].Partitions {
				p := kmsg.NewDescribeQuorumResponseTopicPartition()
				p.Partition, p.ErrorCode = req.Topics[i].Partitions[j].Partition, kerr.UnknownTopicOrPartition.Code
				t.Partitions = append(t.Partitions, p)
			}
			resp.Topics = append(resp.Topics, t)
		}
		r.Reply(resp)
		return
	}
	s.slow(quorumTimeout, func(ctx context.Context) {
		q, err := s.Quorum.Quorum(ctx)
		if err != nil {
			resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
			r.Reply(resp)
			return
		}
		ids := brokerIDs(s.Meta.Image())
		t := kmsg.NewDescribeQuorumResponseTopic()
		t.Topic = quorumTopic
		p := kmsg.NewDescribeQuorumResponseTopicPartition()
		p.LeaderID, p.LeaderEpoch, p.HighWatermark = idOf(ids, q.Leader), int32(q.Term), int64(q.CommitIndex)+1
		now := time.Now().UnixMilli()
		for i := range q.Servers {
			srv := &q.Servers[i]
			state := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
			state.ReplicaID, state.ReplicaDirectoryID = idOf(ids, srv.DirectoryID), srv.DirectoryID
			state.LogEndOffset = int64(srv.LastIndex) + 1
			state.LastFetchTimestamp, state.LastCaughtUpTimestamp = msOr(srv.LastContact, -1), msOr(srv.CaughtUp, -1)
			if srv.DirectoryID == q.Leader {
				state.LogEndOffset, state.LastFetchTimestamp, state.LastCaughtUpTimestamp = int64(q.LastIndex)+1, now, now
			}
			if srv.Voter {
				p.CurrentVoters = append(p.CurrentVoters, state)
				resp.Nodes = append(resp.Nodes, quorumNode(state.ReplicaID, srv.Address))
			} else {
				p.Observers = append(p.Observers, state)
			}
		}
		t.Partitions = append(t.Partitions, p)
		resp.Topics = append(resp.Topics, t)
		r.Reply(resp)
	})
}

func asksForQuorum(req *kmsg.DescribeQuorumRequest) bool {
	return len(req.Topics) == 1 && req.Topics[0].Topic == quorumTopic &&
		len(req.Topics[0].Partitions) == 1 && req.Topics[0].Partitions[0].Partition == 0
}

// brokerIDs are the broker ids by directory.
func brokerIDs(img *metadata.Image) map[uuid.UUID]int32 {
	ids := make(map[uuid.UUID]int32)
	for b := range img.Brokers() {
		ids[b.DirectoryID] = b.ID
	}
	return ids
}

// idOf is a directory's broker id, -1 for one that has not registered.
func idOf(ids map[uuid.UUID]int32, dir uuid.UUID) int32 {
	if id, ok := ids[dir]; ok {
		return id
	}
	return -1
}

// msOr is a time in ms since the Unix epoch, or none for the zero time.
func msOr(t time.Time, none int64) int64 {
	if t.IsZero() {
		return none
	}
	return t.UnixMilli()
}

func quorumNode(id int32, addr string) kmsg.DescribeQuorumResponseNode {
	n := kmsg.NewDescribeQuorumResponseNode()
	n.NodeID = id
	if host, port, err := net.SplitHostPort(addr); err == nil {
		l := kmsg.NewDescribeQuorumResponseNodeListener()
		number, _ := strconv.ParseUint(port, 10, 16) // 0 for what is no port, which nobody dials
		l.Name, l.Host, l.Port = wire.ClusterListener, host, uint16(number)
		n.Listeners = append(n.Listeners, l)
	}
	return n
}

// addRaftVoter gives a broker that follows the metadata a vote (KIP-853). Firn gives
// votes by itself; this is for who wants another number of them.
func (s *Server) addRaftVoter(r *wire.Request, req *kmsg.AddRaftVoterRequest) {
	s.slow(millis(req.TimeoutMillis), func(ctx context.Context) {
		resp := kmsg.NewPtrAddRaftVoterResponse()
		err := s.changeVoter(ctx, req.ClusterID, req.VoterID, req.VoterDirectoryID, true)
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
		r.Reply(resp)
	})
}

// removeRaftVoter takes a broker's vote (KIP-853).
func (s *Server) removeRaftVoter(r *wire.Request, req *kmsg.RemoveRaftVoterRequest) {
	s.slow(quorumTimeout, func(ctx context.Context) {
		resp := kmsg.NewPtrRemoveRaftVoterResponse()
		err := s.changeVoter(ctx, req.ClusterID, req.VoterID, req.VoterDirectoryID, false)
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
		r.Reply(resp)
	})
}

func (s *Server) changeVoter(ctx context.Context, clusterID *string, id int32, dir uuid.UUID, vote bool) error {
	img := s.Meta.Image()
	if clusterID != nil && *clusterID != img.ClusterID() {
		return kerr.InconsistentClusterID
	}
	q, err := s.Quorum.Quorum(ctx)
	if err != nil {
		return err
	}
	ids := brokerIDs(img)
	for i := range q.Servers {
		srv := &q.Servers[i]
		switch {
		case srv.DirectoryID != dir || idOf(ids, dir) != id:
			continue
		case vote && srv.Voter:
			return kerr.DuplicateVoter
		case !vote && !srv.Voter:
			return kerr.VoterNotFound
		case vote:
			return s.Quorum.AddVoter(ctx, dir, srv.Address, 0)
		default:
			return s.Quorum.Demote(ctx, dir, 0)
		}
	}
	if !vote {
		return kerr.VoterNotFound
	}
	return &withCode{kerr.InvalidRequest, fmt.Errorf("broker %d with directory %s does not follow the metadata: a broker does so once it has joined", id, dir)}
}

// unregisterController is for controllers that are no brokers (KIP-1073), which Firn
// does not have.
func (s *Server) unregisterController(r *wire.Request, req *kmsg.UnregisterControllerRequest) {
	resp := kmsg.NewPtrUnregisterControllerResponse()
	err := &withCode{kerr.InvalidRequest, fmt.Errorf("node %d is no controller of its own: brokers hold the metadata, and are unregistered as brokers", req.ControllerID)}
	resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
	r.Reply(resp)
}
