package api

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/wire"
)

// describeMissingGroup is the version of DescribeGroups from which a group that
// does not exist is an error; it was a dead one before (KIP-1043).
const describeMissingGroup = 6

// groupOperations are all operations on a group, by their ACL codes: read,
// delete, describe, describe configs, alter configs. Without an authorizer
// everybody may do them.
const groupOperations = 1<<3 | 1<<6 | 1<<8 | 1<<10 | 1<<11

// listGroups lists the groups that this broker coordinates.
func (s *Server) listGroups(r *wire.Request, req *kmsg.ListGroupsRequest) {
	resp := kmsg.NewPtrListGroupsResponse()
	list, err := s.Groups.List(req.StatesFilter, req.TypesFilter)
	resp.ErrorCode = codeOf(err)
	resp.Groups = make([]kmsg.ListGroupsResponseGroup, len(list))
	for i, g := range list {
		k := kmsg.NewListGroupsResponseGroup()
		k.Group, k.ProtocolType, k.GroupState, k.GroupType = g.Group, g.ProtocolType, g.State, g.Type
		resp.Groups[i] = k
	}
	r.Reply(resp)
}

// describeGroups shows groups with their members.
func (s *Server) describeGroups(r *wire.Request, req *kmsg.DescribeGroupsRequest) {
	resp := kmsg.NewPtrDescribeGroupsResponse()
	resp.Groups = make([]kmsg.DescribeGroupsResponseGroup, len(req.Groups))
	for i, id := range req.Groups {
		k := kmsg.NewDescribeGroupsResponseGroup()
		k.Group, k.AuthorizedOperations = id, noAuthorizedOperations
		d, err := s.Groups.Describe(id)
		switch {
		case errors.Is(err, kerr.GroupIDNotFound):
			k.State = group.Dead.String()
			if r.Version >= describeMissingGroup {
				k.ErrorCode, k.ErrorMessage = kerr.GroupIDNotFound.Code, ptr(fmt.Sprintf("Group %s not found.", id))
			}
		case err != nil:
			k.ErrorCode, k.ErrorMessage = codeOf(err), messageOf(err)
		default:
			describedGroup(&k, &d)
			if req.IncludeAuthorizedOperations {
				k.AuthorizedOperations = groupOperations
			}
		}
		resp.Groups[i] = k
	}
	r.Reply(resp)
}

func describedGroup(k *kmsg.DescribeGroupsResponseGroup, d *group.Description) {
	k.State, k.ProtocolType, k.Protocol = d.State, d.ProtocolType, d.Protocol
	k.Members = make([]kmsg.DescribeGroupsResponseGroupMember, len(d.Members))
	for i, m := range d.Members {
		km := kmsg.NewDescribeGroupsResponseGroupMember()
		km.MemberID, km.InstanceID, km.ClientID, km.ClientHost = m.ID, m.InstanceID, m.ClientID, m.ClientHost
		km.ProtocolMetadata, km.MemberAssignment = m.Metadata, m.Assignment
		k.Members[i] = km
	}
}

// deleteGroups removes empty groups with their offsets. A group named twice is
// answered once, as Kafka does.
func (s *Server) deleteGroups(r *wire.Request, req *kmsg.DeleteGroupsRequest) {
	resp := kmsg.NewPtrDeleteGroupsResponse()
	seen := make(map[string]struct{}, len(req.Groups))
	for _, id := range req.Groups {
		if _, twice := seen[id]; !twice {
			seen[id] = struct{}{}
			k := kmsg.NewDeleteGroupsResponseGroup()
			k.Group = id
			resp.Groups = append(resp.Groups, k)
		}
	}
	if len(resp.Groups) == 0 {
		r.Reply(resp)
		return
	}
	var left atomic.Int64
	left.Store(int64(len(resp.Groups)))
	for i := range resp.Groups {
		k := &resp.Groups[i]
		s.Groups.DeleteGroup(k.Group, func(err error) {
			k.ErrorCode, k.ErrorMessage = codeOf(err), messageOf(err)
			if left.Add(-1) == 0 {
				r.Reply(resp)
			}
		})
	}
}
