package group

import "time"

// effect is one thing that an event wants done, in order.
type effect interface{ isEffect() }

// answerJoin and answerSync complete a waiting request.
type answerJoin struct {
	to   func(JoinResponse)
	resp JoinResponse
}

type answerSync struct {
	to   func(SyncResponse)
	resp SyncResponse
}

// persist writes the group's metadata record; its outcome comes back to
// classicGroup.persisted with the same note.
type persist struct {
	record Record
	note   pendingWrite
}

// setTimer arms or moves a deadline; its passing comes back to
// classicGroup.expire. stopTimer disarms it.
type setTimer struct {
	key timerKey
	at  time.Time
}

type stopTimer struct{ key timerKey }

func (answerJoin) isEffect() {}
func (answerSync) isEffect() {}
func (persist) isEffect()    {}
func (setTimer) isEffect()   {}
func (stopTimer) isEffect()  {}

// timerKind says what a deadline is for.
type timerKind int8

const (
	timerSession   timerKind = iota // a member's session, or a pending member's
	timerJoin                       // end of the join phase
	timerSync                       // end of the sync phase
	timerWrites                     // the shard's oldest unanswered commit
	timerRetention                  // the shard's next look for expired offsets
)

// timerKey names a deadline within a shard.
type timerKey struct {
	kind   timerKind
	group  string
	member string // timerSession
}

// effects collects what one event wants done.
type effects struct{ list []effect }

func (e *effects) add(f effect) { e.list = append(e.list, f) }

// pendingKind says which step of a group waits for its record.
type pendingKind int8

const (
	pendingCreate  pendingKind = iota // a new group
	pendingEmpty                      // the last member has gone
	pendingAssign                     // the leader's assignment
	pendingReplace                    // a static member under its new id
)

// pendingWrite is what the group must know when its record's outcome comes.
type pendingWrite struct {
	kind pendingKind

	// pendingAssign
	generation  int32
	assignments map[string][]byte

	// pendingReplace
	memberID string // new id
	undo     *replacedMember
	skip     bool // the client understands skip_assignment
	// leaderBefore led when the member returned, perhaps under its old id.
	leaderBefore string
}

// replacedMember is a static member before its return.
type replacedMember struct {
	id               string
	protocols        []Protocol
	sessionTimeout   time.Duration
	rebalanceTimeout time.Duration
}
