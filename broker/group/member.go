package group

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

// member is one member of a classic group.
type member struct {
	id               string
	instanceID       *string // nil for a dynamic member
	clientID         string
	clientHost       string
	sessionTimeout   time.Duration
	rebalanceTimeout time.Duration
	protocols        []Protocol // own copies, distinct names, in order of preference
	assignment       []byte     // never nil; empty outside of a generation

	// isNew until its first generation: a new member that stays away is dropped
	// even while its JoinGroup waits, since its connection may be long dead.
	isNew bool
	// join and sync are the requests waiting for an answer, or nil.
	join func(JoinResponse)
	sync func(SyncResponse)
}

func (m *member) isStatic() bool { return m.instanceID != nil }

// update takes over what a JoinGroup may change.
func (m *member) update(req *JoinRequest) {
	m.protocols = cloneProtocols(req.Protocols)
	m.sessionTimeout = req.SessionTimeout
	m.rebalanceTimeout = req.rebalanceTimeout()
}

// matches reports whether the member already offers exactly these protocols.
func (m *member) matches(protocols []Protocol) bool {
	return slices.EqualFunc(m.protocols, distinct(protocols), func(a, b Protocol) bool {
		return a.Name == b.Name && bytes.Equal(a.Metadata, b.Metadata)
	})
}

// metadata returns the member's metadata for a protocol, nil if not offered.
func (m *member) metadata(protocol string) []byte {
	for i := range m.protocols {
		if m.protocols[i].Name == protocol {
			return m.protocols[i].Metadata
		}
	}
	return nil
}

// rebalanceTimeout applies the default of JoinGroup v0.
func (r *JoinRequest) rebalanceTimeout() time.Duration {
	if r.RebalanceTimeout < 0 {
		return r.SessionTimeout
	}
	return r.RebalanceTimeout
}

// distinct drops later protocols of a name that came before.
func distinct(protocols []Protocol) []Protocol {
	if len(protocols) < 2 {
		return protocols
	}
	seen := make(map[string]struct{}, len(protocols))
	for i := range protocols {
		seen[protocols[i].Name] = struct{}{}
	}
	if len(seen) == len(protocols) {
		return protocols
	}
	out := make([]Protocol, 0, len(seen))
	for _, p := range protocols {
		if _, first := seen[p.Name]; first {
			delete(seen, p.Name)
			out = append(out, p)
		}
	}
	return out
}

func cloneProtocols(protocols []Protocol) []Protocol {
	protocols = distinct(protocols)
	out := make([]Protocol, len(protocols))
	for i, p := range protocols {
		out[i] = Protocol{Name: strings.Clone(p.Name), Metadata: append([]byte{}, p.Metadata...)}
	}
	return out
}

func cloneString(s *string) *string {
	if s == nil {
		return nil
	}
	c := strings.Clone(*s)
	return &c
}
