package group

import (
	"errors"
	"github.com/twmb/franz-go/pkg/kerr"
)

// create adds an empty group.
func (s *shard) create(id string, t *turn) *group {
	c := newClassicGroup(id, &s.c.cfg, s.c.newID, t.now)
	g := &group{id: c.id, classic: c}
	s.groups[g.id] = g
	return g
}

func (s *shard) join(req *JoinRequest, done func(JoinResponse), t *turn) {
	if err := s.readyLocked(); err != nil {
		t.answer(func() { done(joinError(req.MemberID, err)) })
		return
	}
	var out effects
	g := s.groups[req.Group]
	if g == nil {
		if req.MemberID != "" {
			t.answer(func() { done(joinError(req.MemberID, kerr.UnknownMemberID)) })
			return
		}
		g = s.create(req.Group, t)
		// Stored as it is before its first member, which Kafka does as well:
		// then every group in memory is one that a replay knows.
		out.add(persist{g.classic.record(), pendingWrite{kind: pendingCreate}})
	}
	g.classic.joinGroup(req, done, t.now, &out)
	if g.writes == 0 && !g.known && g.classic.pristine() {
		delete(s.groups, g.id) // refused: there is nothing to keep
		out.list = out.list[1:]
	}
	s.apply(g, &out, t)
}

func (s *shard) sync(req *SyncRequest, done func(SyncResponse), t *turn) {
	err := s.readyLocked()
	g := s.groups[req.Group]
	if err == nil && g == nil {
		err = kerr.UnknownMemberID
	}
	if err != nil {
		t.answer(func() { done(SyncResponse{Err: err}) })
		return
	}
	var out effects
	g.classic.syncGroup(req, done, &out)
	s.apply(g, &out, t)
}

func (s *shard) heartbeat(req *HeartbeatRequest, done func(error), t *turn) {
	err := s.readyLocked()
	if g := s.groups[req.Group]; g != nil {
		var out effects
		err = g.classic.heartbeat(req, t.now, &out)
		s.apply(g, &out, t)
	} else if err == nil {
		err = kerr.UnknownMemberID
	}
	if errors.Is(err, kerr.CoordinatorLoadInProgress) {
		err = nil // the session begins anew when the group is loaded
	}
	t.answer(func() { done(err) })
}

func (s *shard) leave(req *LeaveRequest, done func(LeaveResponse), t *turn) {
	if err := s.readyLocked(); err != nil {
		t.answer(func() { done(LeaveResponse{Err: err}) })
		return
	}
	resp := LeaveResponse{}
	if g := s.groups[req.Group]; g != nil {
		var out effects
		resp.Members = g.classic.leaveGroup(req, t.now, &out)
		s.apply(g, &out, t)
	} else {
		resp.Members = make([]error, len(req.Members))
		for i := range resp.Members {
			resp.Members[i] = kerr.UnknownMemberID
		}
	}
	t.answer(func() { done(resp) })
}
