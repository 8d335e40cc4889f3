package group

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
)

// List returns the groups led here, sorted by id, whose state is among states
// and whose type among types; both filters are case-insensitive, and match
// everything where empty (KIP-518, KIP-848). While a partition loads it fails
// with COORDINATOR_LOAD_IN_PROGRESS, since the list would lack groups.
func (c *Coordinator) List(states, types []string) ([]Listed, error) {
	shards, err := c.all()
	if err != nil {
		return nil, err
	}
	typed := len(types) == 0 || slices.ContainsFunc(types, func(t string) bool { return strings.EqualFold(t, TypeClassic) })
	list := []Listed{}
	for _, s := range shards {
		s.run(func(*turn) {
			if s.phase == loading {
				err = kerr.CoordinatorLoadInProgress
			}
			for id, g := range s.groups {
				if typed && g.classic.state.matchesAny(states) {
					list = append(list, Listed{
						Group: id, ProtocolType: g.classic.protocolType,
						State: g.classic.state.String(), Type: TypeClassic,
					})
				}
			}
		})
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b Listed) int { return strings.Compare(a.Group, b.Group) })
	return list, nil
}

// Describe returns a group in detail, or GROUP_ID_NOT_FOUND.
func (c *Coordinator) Describe(group string) (Description, error) {
	s, err := c.route(group)
	if err != nil {
		return Description{}, err
	}
	var d Description
	s.run(func(*turn) {
		if err = s.readyLocked(); err != nil {
			return
		}
		g := s.groups[group]
		if g == nil {
			err = kerr.GroupIDNotFound
			return
		}
		d = g.classic.describe()
	})
	return d, err
}

func (g *classicGroup) describe() Description {
	d := Description{State: g.state.String(), ProtocolType: g.protocolType, Members: make([]DescribedMember, len(g.order))}
	if g.state == Stable {
		d.Protocol = g.protocol
	}
	for i, m := range g.order {
		d.Members[i] = DescribedMember{
			ID: m.id, InstanceID: m.instanceID, ClientID: m.clientID, ClientHost: m.clientHost, Assignment: m.assignment,
		}
		if g.state == Stable {
			d.Members[i].Metadata = m.metadata(g.protocol)
		}
	}
	return d
}

// Stats counts what the coordinator holds, for metrics.
type Stats struct {
	Partitions int           // led and loaded
	Loading    int           // led, not yet loaded
	Groups     map[State]int // classic groups by state
	Offsets    int           // committed offsets
}

// Stats counts groups and offsets. It looks at each group.
func (c *Coordinator) Stats() Stats {
	st := Stats{Groups: map[State]int{}}
	shards, err := c.all()
	if err != nil {
		return st // closed: nothing is held
	}
	for _, s := range shards {
		s.run(func(*turn) {
			if s.phase == loading {
				st.Loading++
				return
			}
			st.Partitions++
			for _, g := range s.groups {
				st.Groups[g.classic.state]++
			}
			for _, o := range s.offsets.groups {
				for _, partitions := range o.stable {
					st.Offsets += len(partitions)
				}
			}
		})
	}
	return st
}
