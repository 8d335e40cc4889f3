package api

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/wire"
)

// Versions from which the group APIs behave otherwise.
const (
	joinRequiresMemberID = 4 // KIP-394
	joinNullProtocol     = 7 // KIP-559: null for no protocol, "" before
	joinSkipsAssignment  = 9 // KIP-814
	syncNamesProtocol    = 5 // KIP-559
	leaveManyMembers     = 3 // KIP-345
)

// joinGroup lets a member into a group; the answer waits for the others.
func (s *Server) joinGroup(r *wire.Request, req *kmsg.JoinGroupRequest) {
	join := &group.JoinRequest{
		Group:      req.Group,
		MemberID:   req.MemberID,
		InstanceID: req.InstanceID,
		ClientID:   r.ClientID,
		// As Java prints an address.
		ClientHost:        "/" + r.Conn.RemoteAddr().Addr().String(),
		SessionTimeout:    time.Duration(req.SessionTimeoutMillis) * time.Millisecond,
		RebalanceTimeout:  time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond,
		ProtocolType:      req.ProtocolType,
		Protocols:         make([]group.Protocol, len(req.Protocols)),
		RequireMemberID:   r.Version >= joinRequiresMemberID,
		CanSkipAssignment: r.Version >= joinSkipsAssignment,
		Reason:            orEmpty(req.Reason),
	}
	if r.Version == 0 {
		join.RebalanceTimeout = -1 // the session's
	}
	for i, p := range req.Protocols {
		join.Protocols[i] = group.Protocol{Name: p.Name, Metadata: p.Metadata}
	}
	s.Groups.Join(join, func(got group.JoinResponse) { r.Reply(joinResponse(r.Version, &got)) })
}

func joinResponse(version int16, got *group.JoinResponse) *kmsg.JoinGroupResponse {
	resp := kmsg.NewPtrJoinGroupResponse()
	resp.ErrorCode = codeOf(got.Err)
	resp.MemberID, resp.Generation, resp.LeaderID = got.MemberID, got.Generation, got.Leader
	resp.ProtocolType, resp.Protocol = orNull(got.ProtocolType), orNull(got.Protocol)
	if version < joinNullProtocol {
		resp.Protocol = &got.Protocol
	}
	resp.SkipAssignment = got.SkipAssignment
	resp.Members = make([]kmsg.JoinGroupResponseMember, len(got.Members))
	for i, m := range got.Members {
		k := kmsg.NewJoinGroupResponseMember()
		k.MemberID, k.InstanceID, k.ProtocolMetadata = m.ID, m.InstanceID, m.Metadata
		resp.Members[i] = k
	}
	return resp
}

// syncGroup hands the leader's assignment to the members.
func (s *Server) syncGroup(r *wire.Request, req *kmsg.SyncGroupRequest) {
	answer := func(got group.SyncResponse) {
		resp := kmsg.NewPtrSyncGroupResponse()
		resp.ErrorCode = codeOf(got.Err)
		resp.ProtocolType, resp.Protocol = orNull(got.ProtocolType), orNull(got.Protocol)
		resp.MemberAssignment = got.Assignment
		r.Reply(resp)
	}
	if r.Version >= syncNamesProtocol && (req.ProtocolType == nil || req.Protocol == nil) {
		answer(group.SyncResponse{Err: kerr.InconsistentGroupProtocol})
		return
	}
	sync := &group.SyncRequest{
		Group: req.Group, MemberID: req.MemberID, InstanceID: req.InstanceID, Generation: req.Generation,
		ProtocolType: req.ProtocolType, Protocol: req.Protocol,
		Assignments: make([]group.Assignment, len(req.GroupAssignment)),
	}
	for i, a := range req.GroupAssignment {
		sync.Assignments[i] = group.Assignment{MemberID: a.MemberID, Data: a.MemberAssignment}
	}
	s.Groups.Sync(sync, answer)
}

// heartbeat keeps a member's session alive.
func (s *Server) heartbeat(r *wire.Request, req *kmsg.HeartbeatRequest) {
	beat := &group.HeartbeatRequest{
		Group: req.Group, MemberID: req.MemberID, InstanceID: req.InstanceID, Generation: req.Generation,
	}
	s.Groups.Heartbeat(beat, func(err error) {
		resp := kmsg.NewPtrHeartbeatResponse()
		resp.ErrorCode = codeOf(err)
		r.Reply(resp)
	})
}

// leaveGroup removes a member, from v3 any number with an error each. Before,
// the one member's error is that of the answer.
func (s *Server) leaveGroup(r *wire.Request, req *kmsg.LeaveGroupRequest) {
	leave := &group.LeaveRequest{Group: req.Group, Members: make([]group.LeaveMember, len(req.Members))}
	for i, m := range req.Members {
		leave.Members[i] = group.LeaveMember{MemberID: m.MemberID, InstanceID: m.InstanceID, Reason: orEmpty(m.Reason)}
	}
	if r.Version < leaveManyMembers {
		leave.Members = []group.LeaveMember{{MemberID: req.MemberID}}
	}
	s.Groups.Leave(leave, func(got group.LeaveResponse) {
		resp := kmsg.NewPtrLeaveGroupResponse()
		resp.ErrorCode = codeOf(got.Err)
		for i, err := range got.Members {
			if r.Version < leaveManyMembers {
				resp.ErrorCode = codeOf(err)
				break
			}
			k := kmsg.NewLeaveGroupResponseMember()
			k.MemberID, k.InstanceID, k.ErrorCode = leave.Members[i].MemberID, leave.Members[i].InstanceID, codeOf(err)
			resp.Members = append(resp.Members, k)
		}
		r.Reply(resp)
	})
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
