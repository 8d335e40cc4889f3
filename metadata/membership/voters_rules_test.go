package membership

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/raftnode"
)

// TestVoterRules names, for each rule, the least that makes the planner act, and
// what holds it back.
func TestVoterRules(t *testing.T) {
	now := time.Unix(10_000, 0)
	dir := func(i int) uuid.UUID { return uuid.UUID{byte(i)} }
	well := func(i int) Standing {
		return Standing{DirectoryID: dir(i), Address: "a" + strconv.Itoa(i), Alive: true, AliveSince: now.Add(-time.Minute), GoneSince: now, LastContact: now, CaughtUp: now}
	}
	// view has voters 1..voters and followers up to all; 1 leads.
	view := func(voters, all int, change func(s map[int]*Standing)) *VoterView {
		standings := map[int]*Standing{}
		v := &VoterView{Self: dir(1), LeadsSince: now.Add(-leaderHears), Standings: map[uuid.UUID]Standing{}}
		for i := 1; i <= all; i++ {
			s := well(i)
			standings[i] = &s
			v.Servers = append(v.Servers, raftnode.Server{DirectoryID: dir(i), Address: s.Address, Voter: i <= voters})
		}
		if change != nil {
			change(standings)
		}
		for _, s := range standings {
			v.Standings[s.DirectoryID] = *s
		}
		return v
	}
	leading := func(v *VoterView, since time.Duration) *VoterView {
		v.LeadsSince = now.Add(-since)
		return v
	}
	silent := func(s *Standing, since time.Duration) {
		s.Alive, s.GoneSince, s.LastContact = false, now.Add(-since), now.Add(-since)
	}
	for name, tc := range map[string]struct {
		v    *VoterView
		want ChangeKind
		who  int
	}{
		"three voters that are well":     {view(3, 5, nil), NoChange, 0},
		"one voter, one follower":        {view(1, 2, nil), NoChange, 0},
		"one voter, two followers":       {view(1, 3, nil), AddVoter, 2},
		"one of two followers lags":      {view(1, 3, func(s map[int]*Standing) { s[3].CaughtUp = now.Add(-time.Minute) }), NoChange, 0},
		"two voters and a newcomer":      {view(2, 3, func(s map[int]*Standing) { s[3].AliveSince = now.Add(-time.Second) }), AddVoter, 3},
		"two voters and one just come":   {view(2, 3, func(s map[int]*Standing) { s[3].AliveSince = now }), AddVoter, 3},
		"two voters and one that lags":   {view(2, 3, func(s map[int]*Standing) { s[3].CaughtUp = time.Time{} }), NoChange, 0},
		"one of two has just come":       {view(1, 3, func(s map[int]*Standing) { s[3].AliveSince = now.Add(-time.Second) }), NoChange, 0},
		"two voters, one follower":       {view(2, 3, nil), AddVoter, 3},
		"two voters, one out of contact": {view(2, 3, func(s map[int]*Standing) { s[2].LastContact = now.Add(-5 * time.Second) }), AddVoter, 3},
		"a voter silent for long":        {view(3, 4, func(s map[int]*Standing) { silent(s[2], 31*time.Second) }), RemoveServer, 2},
		"a leader that heard nobody yet": {leading(view(3, 4, func(s map[int]*Standing) {
			silent(s[2], time.Minute)
			s[2].LastContact = time.Time{}
		}), 4*time.Second), NoChange, 0},
		"a voter silent for a moment":    {view(3, 4, func(s map[int]*Standing) { silent(s[2], 29*time.Second) }), NoChange, 0},
		"a silent voter that Raft hears": {view(3, 4, func(s map[int]*Standing) { silent(s[2], time.Minute); s[2].LastContact = now }), NoChange, 0},
		"nobody to replace it":           {view(3, 3, func(s map[int]*Standing) { silent(s[2], time.Hour) }), NoChange, 0},
		"two silent: no majority is left after one goes": {view(4, 5, func(s map[int]*Standing) {
			silent(s[2], time.Hour)
			silent(s[3], time.Hour)
			silent(s[4], time.Hour)
		}), NoChange, 0},
		"five voters stay five": {view(5, 6, func(s map[int]*Standing) { silent(s[2], time.Minute) }), AddVoter, 6},
		"then the silent one":   {view(6, 7, func(s map[int]*Standing) { silent(s[2], time.Minute) }), RemoveServer, 2},
		"a voter that left":     {view(3, 3, func(s map[int]*Standing) { silent(s[2], 0); s[2].Dismissed = true }), RemoveServer, 2},
		"but not below a majority": {view(3, 3, func(s map[int]*Standing) {
			silent(s[2], time.Minute)
			silent(s[3], time.Minute)
			s[2].Dismissed = true
		}), NoChange, 0},
		"the leader leaves":    {view(3, 3, func(s map[int]*Standing) { s[1].Dismissed = true }), HandLeadership, 1},
		"a follower that left": {view(3, 4, func(s map[int]*Standing) { silent(s[4], 0); s[4].Dismissed = true }), RemoveServer, 4},
		"a member elsewhere":   {view(3, 4, func(s map[int]*Standing) { s[4].Address = "b" }), AddNonvoter, 4},
		"a voter elsewhere":    {view(3, 4, func(s map[int]*Standing) { s[3].Address = "b" }), AddVoter, 3},
		"a member at a server's address keeps nobody waiting": {view(2, 3, func(s map[int]*Standing) {
			m := well(9)
			m.Address = "a1"
			s[9] = &m
		}), AddVoter, 3},
		"a voter where Raft has one that is silent": {view(3, 3, func(s map[int]*Standing) {
			s[2].Address = "a3"
			silent(s[3], time.Minute)
			s[3].Dismissed = true
		}), RemoveServer, 3},
		"nor does a server that goes there": {view(2, 3, func(s map[int]*Standing) { s[2].Address = "a1" }), AddVoter, 3},
		"a member of no server":             {view(3, 3, func(s map[int]*Standing) { m := well(9); s[9] = &m }), AddNonvoter, 9},
	} {
		t.Run(name, func(t *testing.T) {
			c := PlanVoters(now, tc.v)
			require.Equal(t, tc.want, c.Kind, "%+v", c)
			if tc.who != 0 {
				require.Equal(t, dir(tc.who), c.DirectoryID)
			}
		})
	}
}
