package membership

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// askClock is between two questions to a candidate whose clock is known.
const askClock = 5 * time.Second

// formingClocks is what a node that waits to begin a cluster knows of the clocks of
// the others. Only nodes whose clocks agree with the proposer's are asked for votes,
// so that none begins a cluster with a clock by which records would be stamped and
// deleted wrongly; a node that most others contradict must not run.
type formingClocks struct {
	ahead map[uuid.UUID]time.Duration // theirs less ours
	asked map[uuid.UUID]time.Time
}

// heard notes how far a node's clock is ahead of ours, as far as the way of the
// question does not explain it.
func (c *formingClocks) heard(id uuid.UUID, ahead time.Duration) {
	if c.ahead == nil {
		c.ahead = map[uuid.UUID]time.Duration{}
	}
	c.ahead[id] = ahead
}

// ask returns those of the candidates whose clocks are to be asked for now.
func (c *formingClocks) ask(now time.Time, self uuid.UUID, candidates []Member) []Member {
	var ask []Member
	for _, m := range candidates {
		if m.DirectoryID == self {
			continue
		}
		pause := askClock
		if _, known := c.ahead[m.DirectoryID]; !known {
			pause = askEvery
		}
		if at, asked := c.asked[m.DirectoryID]; asked && now.Sub(at) < pause {
			continue
		}
		if c.asked == nil {
			c.asked = map[uuid.UUID]time.Time{}
		}
		c.asked[m.DirectoryID] = now
		ask = append(ask, m)
	}
	return ask
}

// agreeing are those of the candidates whose clocks are near ours, this node among
// them.
func (c *formingClocks) agreeing(self uuid.UUID, candidates []Member) []Member {
	var near []Member
	for _, m := range candidates {
		ahead, known := c.ahead[m.DirectoryID]
		if m.DirectoryID == self || known && ahead.Abs() <= MaxClockSkew {
			near = append(near, m)
		}
	}
	return near
}

// off are the candidates whose clocks are too far from ours.
func (c *formingClocks) off(self uuid.UUID, candidates []Member) []Member {
	return slices.DeleteFunc(slices.Clone(candidates), func(m Member) bool {
		return m.DirectoryID == self || c.ahead[m.DirectoryID].Abs() <= MaxClockSkew
	})
}

// judge refuses this node where more than half of so many nodes agree on a time, and
// it does not.
func (c *formingClocks) judge(self uuid.UUID, candidates []Member, of int) error {
	off := c.off(self, candidates)
	if 2*len(c.agreeing(self, candidates)) > of {
		return nil
	}
	for _, m := range off {
		theirs := c.ahead[m.DirectoryID]
		same := slices.DeleteFunc(slices.Clone(off), func(o Member) bool {
			return (c.ahead[o.DirectoryID] - theirs).Abs() > MaxClockSkew
		})
		if 2*len(same) > of {
			return refuse(ErrClock, "the clock of this node is %s those of %s, with which a cluster begins; at most %s is allowed: set it, and keep it by NTP",
				beside(-theirs), nodes(same), MaxClockSkew)
		}
	}
	return nil
}

// beside says where a clock is that is so far ahead of another.
func beside(ahead time.Duration) string {
	if ahead < 0 {
		return (-ahead).Round(time.Second).String() + " behind"
	}
	return ahead.Round(time.Second).String() + " ahead of"
}

// nodes names members.
func nodes(members []Member) string {
	var ids []string
	for _, m := range members {
		ids = append(ids, fmt.Sprint(m.NodeID))
	}
	slices.Sort(ids)
	if len(ids) == 1 {
		return "node " + ids[0]
	}
	return "nodes " + strings.Join(ids, ", ")
}
