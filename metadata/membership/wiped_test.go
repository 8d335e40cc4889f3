package membership

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/raftnode"
)

// TestAWipedVoterMakesRoomForItself: its new directory is at the old one's address
// and cannot register before it follows the log, so gossip's word must be enough to
// take the old one out, and that comes before the new one is added.
func TestAWipedVoterMakesRoomForItself(t *testing.T) {
	now := time.Unix(10_000, 0)
	dirs := []uuid.UUID{{1}, {2}, {3}, {4}}
	member := func(i int, node int32, status Status) Member {
		return Member{DirectoryID: dirs[i], Status: status, Tags: Tags{NodeID: node, ClusterAddr: []string{"a:1", "b:1", "c:1", "b:1"}[i], State: Formed}}
	}
	ed := metadata.Empty().Edit()
	servers := []raftnode.Server{}
	quorum := raftnode.Quorum{Leader: dirs[0]}
	for i, addr := range []string{"a:1", "b:1", "c:1"} {
		ed.PutBroker(&metadata.Broker{ID: int32(i) + 1, DirectoryID: dirs[i]})
		servers = append(servers, raftnode.Server{DirectoryID: dirs[i], Address: addr, Voter: true})
		quorum.Servers = append(quorum.Servers, raftnode.ServerState{Server: servers[i], LastContact: now, CaughtUp: now})
	}
	quorum.Servers[1].LastContact = now.Add(-3 * time.Second)
	img, _ := ed.Commit(1)
	plan := func(members ...Member) VoterChange {
		k := &keeper{seen: map[uuid.UUID]*sighting{}, o: KeeperOptions{Self: dirs[0], Members: func() []Member { return members },
			Image: func() *metadata.Image { return img }}}
		return PlanVoters(now, &VoterView{Self: dirs[0], Servers: servers, Standings: k.standings(now, servers, &quorum)})
	}
	require.Equal(t, NoChange, plan(member(0, 1, Alive), member(1, 2, Failed), member(2, 3, Alive)).Kind, "it may come back")
	c := plan(member(0, 1, Alive), member(1, 2, Failed), member(2, 3, Alive), member(3, 2, Alive))
	require.Equal(t, RemoveServer, c.Kind, c.Why)
	require.Equal(t, dirs[1], c.DirectoryID)
	servers = []raftnode.Server{servers[0], servers[2]}
	c = plan(member(0, 1, Alive), member(1, 2, Failed), member(2, 3, Alive), member(3, 2, Alive))
	require.Equal(t, AddNonvoter, c.Kind, c.Why)
	require.Equal(t, dirs[3], c.DirectoryID)
}

// TestAnotherBrokerAtTheAddress: a broker with a new node id is started where one that
// died was. Raft takes an address once, so the dead one goes; not while it is heard.
func TestAnotherBrokerAtTheAddress(t *testing.T) {
	now := time.Unix(10_000, 0)
	dirs := []uuid.UUID{{1}, {2}, {3}, {4}}
	addrs := []string{"a:1", "b:1", "c:1", "b:1"}
	ed := metadata.Empty().Edit()
	var servers []raftnode.Server
	var members []Member
	quorum := raftnode.Quorum{Leader: dirs[0]}
	for i, addr := range addrs {
		members = append(members, Member{DirectoryID: dirs[i], Tags: Tags{NodeID: int32(i) + 1, ClusterAddr: addr, State: Formed}})
		if i < 3 {
			ed.PutBroker(&metadata.Broker{ID: int32(i) + 1, DirectoryID: dirs[i]})
			servers = append(servers, raftnode.Server{DirectoryID: dirs[i], Address: addr, Voter: true})
			quorum.Servers = append(quorum.Servers, raftnode.ServerState{Server: servers[i], LastContact: now, CaughtUp: now})
		}
	}
	members[1].Status = Failed
	img, _ := ed.Commit(1)
	plan := func() VoterChange {
		k := &keeper{seen: map[uuid.UUID]*sighting{}, o: KeeperOptions{Self: dirs[0], Members: func() []Member { return members },
			Image: func() *metadata.Image { return img }}}
		return PlanVoters(now, &VoterView{Self: dirs[0], Servers: servers, Standings: k.standings(now, servers, &quorum)})
	}
	require.Equal(t, NoChange, plan().Kind, "Raft hears it")
	quorum.Servers[1].LastContact = now.Add(-3 * time.Second)
	c := plan()
	require.Equal(t, RemoveServer, c.Kind, c.Why)
	require.Equal(t, dirs[1], c.DirectoryID)
	servers = []raftnode.Server{servers[0], servers[2]}
	c = plan()
	require.Equal(t, AddNonvoter, c.Kind, c.Why)
	require.Equal(t, dirs[3], c.DirectoryID)
}
