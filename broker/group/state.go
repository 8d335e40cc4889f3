package group

import "strings"

// State is the state of a classic group, spelled as Kafka does.
type State int8

// The states of a classic group. Transitions:
//
//	Empty → PreparingRebalance            a member joins
//	PreparingRebalance → Completing…      all joined, or the join phase timed out
//	PreparingRebalance → Empty            nobody is left
//	CompletingRebalance → Stable          the leader's assignment is persisted
//	CompletingRebalance → Preparing…      a member joins anew, leaves or fails
//	Stable → PreparingRebalance           the same
//
// Dead is only shown, for groups that do not exist.
const (
	Empty State = iota
	PreparingRebalance
	CompletingRebalance
	Stable
	Dead
)

var stateNames = [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}

// String returns Kafka's name of the state.
func (s State) String() string { return stateNames[s] }

// matchesAny reports whether the state's name is among names, in any case and
// with blanks around it. No names match all.
func (s State) matchesAny(names []string) bool {
	for _, n := range names {
		if strings.EqualFold(strings.TrimSpace(n), s.String()) {
			return true
		}
	}
	return len(names) == 0
}

// TypeClassic is the group type of classic groups in listings (KIP-848).
const TypeClassic = "classic"
