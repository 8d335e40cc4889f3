package membership

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/serf/serf"
)

// State is how far a member has come, as it says itself.
type State byte

// The states of a member.
const (
	// Checking: it has just started, and may yet find that it must not run. Nobody
	// counts on it, and it takes no part in forming a cluster.
	Checking State = iota
	// Forming: it has no Raft state, and waits to begin or to join a cluster.
	Forming
	// Formed: it has Raft state, or joined a cluster that has.
	Formed
)

var stateNames = [...]string{"checking", "forming", "formed"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "state " + strconv.Itoa(int(s))
}

// Status is what gossip knows of a member. It is a hint, and decides nothing.
type Status byte

// The statuses of a member.
const (
	Alive  Status = iota
	Failed        // it stopped answering; it may come back
	Left          // it said that it leaves for good
)

func (s Status) String() string {
	return [...]string{"alive", "failed", "left"}[min(s, Left)]
}

// Tags are what a member says of itself.
type Tags struct {
	NodeID int32
	// ClusterAddr is HOST:PORT of its port between brokers.
	ClusterAddr string
	// ClusterID is the cluster that it belongs to, "" until it knows one. It is
	// known from state alone; what its configuration asks for is WantedCluster.
	ClusterID     string
	WantedCluster string
	Rack          string
	Version       string
	// Expect is its bootstrap.expect.
	Expect int
	State  State
	// Incarnation tells one life of a process from another. Open makes it.
	Incarnation string
}

// Member is one node as gossip knows it.
type Member struct {
	Tags
	// DirectoryID names its data directory, and is its name in gossip.
	DirectoryID uuid.UUID
	// GossipAddr is where it gossips.
	GossipAddr netip.AddrPort
	Status     Status
	// Since is when this node saw Status begin, by its own clock; zero for itself.
	Since time.Time
}

func (m Member) String() string {
	return fmt.Sprintf("node %d (%s, %s)", m.NodeID, m.GossipAddr, m.DirectoryID)
}

// belongs is the cluster that the tags name, by state or by wish; "" for none.
func (t *Tags) belongs() string {
	if t.ClusterID != "" {
		return t.ClusterID
	}
	return t.WantedCluster
}

// The names of tags. They are short since memberlist leaves 512 bytes for all. A
// tag that is empty is not sent, and one that is not known is skipped.
const (
	tagNode        = "n"
	tagAddr        = "a"
	tagCluster     = "c"
	tagWanted      = "w"
	tagRack        = "r"
	tagVersion     = "v"
	tagExpect      = "x"
	tagState       = "s"
	tagIncarnation = "i"
)

// maxTags is memberlist's limit, less its own framing.
const maxTags = 500

// encode is the form that Serf gossips.
//
// Errors: tags that are too long together, naming those that a person chose.
func (t *Tags) encode() (map[string]string, error) {
	all := map[string]string{
		tagNode: strconv.Itoa(int(t.NodeID)), tagAddr: t.ClusterAddr, tagCluster: t.ClusterID, tagWanted: t.WantedCluster,
		tagRack: t.Rack, tagVersion: t.Version, tagExpect: strconv.Itoa(t.Expect), tagState: strconv.Itoa(int(t.State)),
		tagIncarnation: t.Incarnation,
	}
	if t.WantedCluster == t.ClusterID {
		delete(all, tagWanted)
	}
	size := 0
	for name, value := range all {
		if value == "" {
			delete(all, name)
			continue
		}
		size += len(name) + len(value) + 6 // msgpack's headers
	}
	if size > maxTags {
		return nil, fmt.Errorf("membership: what this node tells of itself is %d bytes long, at most %d fit: shorten broker.rack (%d) or cluster.advertised (%d)",
			size, maxTags, len(t.Rack), len(t.ClusterAddr))
	}
	return all, nil
}

var errTags = errors.New("not a member of a Firn cluster")

// decodeTags reads what another member sent. A later version may send more.
func decodeTags(all map[string]string) (Tags, error) {
	node, err := strconv.ParseInt(all[tagNode], 10, 32)
	if err != nil || node < 0 {
		return Tags{}, fmt.Errorf("%w: node id %q", errTags, all[tagNode])
	}
	t := Tags{
		NodeID: int32(node), ClusterAddr: all[tagAddr], ClusterID: all[tagCluster], WantedCluster: all[tagWanted], Rack: all[tagRack],
		Version: all[tagVersion], Incarnation: all[tagIncarnation],
	}
	if t.Expect, err = strconv.Atoi(all[tagExpect]); err != nil || t.Expect < 1 {
		return Tags{}, fmt.Errorf("%w: bootstrap.expect %q", errTags, all[tagExpect])
	}
	state, err := strconv.ParseUint(all[tagState], 10, 8)
	if err != nil {
		return Tags{}, fmt.Errorf("%w: state %q", errTags, all[tagState])
	}
	t.State = State(state)
	return t, nil
}

// fromSerf reads a member as Serf knows it.
func fromSerf(m *serf.Member) (Member, error) {
	id, err := uuid.Parse(m.Name)
	if err != nil {
		return Member{}, fmt.Errorf("%w: name %q", errTags, m.Name)
	}
	tags, err := decodeTags(m.Tags)
	if err != nil {
		return Member{}, err
	}
	addr, ok := netip.AddrFromSlice(m.Addr)
	if !ok {
		return Member{}, fmt.Errorf("%w: address %q", errTags, m.Addr)
	}
	return Member{Tags: tags, DirectoryID: id, GossipAddr: netip.AddrPortFrom(addr.Unmap(), m.Port)}, nil
}
