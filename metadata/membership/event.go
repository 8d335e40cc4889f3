package membership

import (
	"errors"
	"fmt"
)

// What is wrong with a node, or with what it met. Problems wrap one of these.
var (
	// ErrWrongKey: what a peer gossips cannot be read, or it cannot read ours.
	ErrWrongKey = errors.New("gossip.key differs")
	// ErrForeignCluster: a peer belongs to another cluster.
	ErrForeignCluster = errors.New("another cluster")
	// ErrDuplicateNode: a living peer of another data directory has our node id.
	ErrDuplicateNode = errors.New("node.id is taken")
	// ErrDuplicateDirectory: a living peer runs on a copy of our data directory.
	ErrDuplicateDirectory = errors.New("data directory runs twice")
)

// EventKind says what happened.
type EventKind byte

// The kinds of events. All but Trouble are about Event.Member.
const (
	MemberJoined  EventKind = iota // or came back
	MemberUpdated                  // its tags changed
	MemberFailed                   // it stopped answering
	MemberLeft                     // it left for good
	MemberGone                     // it failed or left so long ago that gossip forgets it
	Trouble                        // Event.Err wraps one of ErrWrongKey, ErrForeignCluster, ErrDuplicateNode, ErrDuplicateDirectory
)

func (k EventKind) String() string {
	return [...]string{"joined", "updated", "failed", "left", "gone", "trouble"}[min(k, Trouble)]
}

// Event is a change that gossip brought. It is a hint, and decides nothing.
type Event struct {
	Kind   EventKind
	Member Member // zero for trouble of no known member
	Err    error  // of Trouble
}

// problem is a trouble that lasts until it is known to have ended.
type problem struct {
	kind error // one of the sentinels
	peer string
	text string
}

func (p *problem) Error() string { return fmt.Sprintf("%s: %s", p.kind, p.text) }
func (p *problem) Unwrap() error { return p.kind }
