package checker

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// TopicAction is what an administrator asked for.
type TopicAction string

// The actions on a topic. A topic is a register that exists or not and, if so,
// holds the value of one of its configs.
const (
	CreateTopic TopicAction = "create" // with Value
	DeleteTopic TopicAction = "delete"
	SetConfig   TopicAction = "set" // to Value
	// ReadTopic is a read that claims to be linearizable, as one after a barrier.
	ReadTopic TopicAction = "read"
)

// TopicAnswer is what came of it.
type TopicAnswer string

// The answers.
const (
	Done    TopicAnswer = "done"    // changed, or read Value
	Exists  TopicAnswer = "exists"  // already
	Missing TopicAnswer = "missing" // no such topic
	NoWord  TopicAnswer = "?"       // no answer: it may have been done, or will be
	Refused TopicAnswer = "refused" // certainly not done, for reasons of its own
)

// TopicOp is an administrative operation, a line of its file.
type TopicOp struct {
	Client int         `json:"c"`
	Topic  string      `json:"l"`
	Action TopicAction `json:"k"`
	Value  string      `json:"v,omitempty"` // given or read
	Answer TopicAnswer `json:"r"`
	Begin  int64       `json:"b"` // ns
	Finish int64       `json:"e"` // ns; 0 with NoWord
	Via    int32       `json:"n"` // broker that was asked
}

// topic is the state of the model.
type topic struct {
	exists bool
	value  string
}

// step applies an operation to a topic, and tells whether its answer fits.
func step(state topic, op *TopicOp) (bool, topic) {
	if op.Answer == Refused {
		return true, state
	}
	next, answer := state, Done
	switch op.Action {
	case CreateTopic:
		if state.exists {
			answer = Exists
		} else {
			next = topic{exists: true, value: op.Value}
		}
	case DeleteTopic:
		if !state.exists {
			answer = Missing
		}
		next = topic{}
	case SetConfig:
		if !state.exists {
			answer = Missing
		} else {
			next.value = op.Value
		}
	case ReadTopic:
		if !state.exists {
			answer = Missing
		} else if op.Answer == Done && op.Value != state.value {
			return false, state
		}
	}
	// An operation without an answer that was never carried out comes last.
	return op.Answer == NoWord || op.Answer == answer, next
}

// model is one topic for porcupine.
var model = porcupine.Model{
	Init: func() any { return topic{} },
	Step: func(state, input, _ any) (bool, any) {
		fits, next := step(state.(topic), input.(*TopicOp))
		return fits, next
	},
}

// CheckMetadata searches for an order of the operations on each topic in which
// every one gets the answer that it got and lies between its beginning and its
// end; topics begin absent. The error names the topics that have none, or for
// which none was found within the limit.
func CheckMetadata(ops []TopicOp, limit time.Duration) error {
	byTopic := make(map[string][]porcupine.Operation)
	var names []string
	for i := range ops {
		op := &ops[i]
		finish := op.Finish
		if op.Answer == NoWord || finish == 0 {
			finish = math.MaxInt64
		}
		if byTopic[op.Topic] == nil {
			names = append(names, op.Topic)
		}
		byTopic[op.Topic] = append(byTopic[op.Topic], porcupine.Operation{ClientId: op.Client, Input: op, Call: op.Begin, Return: finish})
	}
	slices.Sort(names)
	var failed []error
	for _, name := range names {
		switch porcupine.CheckOperationsTimeout(model, byTopic[name], limit) {
		case porcupine.Ok:
		case porcupine.Unknown:
			failed = append(failed, fmt.Errorf("%s: %w after %v over %d operations", name, ErrUndecided, limit, len(byTopic[name])))
		default:
			failed = append(failed, fmt.Errorf("%s: %w: %s", name, ErrNotLinearizable, describe(byTopic[name])))
		}
	}
	return errors.Join(failed...)
}

// What CheckMetadata says of a topic.
var (
	ErrNotLinearizable = errors.New("no order explains the answers")
	ErrUndecided       = errors.New("gave up the search")
)

// describe lists the operations on a topic as they began.
func describe(ops []porcupine.Operation) string {
	ops = slices.Clone(ops)
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	for _, o := range ops {
		op := o.Input.(*TopicOp)
		fmt.Fprintf(&b, "\n  %8.3f to %8.3f s, client %d by broker %d: %s %s -> %s", float64(op.Begin)/1e9, float64(op.Finish)/1e9,
			op.Client, op.Via, op.Action, op.Value, op.Answer)
	}
	return b.String()
}
