package raftnode

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// registerOp is one operation on a register: a config of the brokers' default.
type registerOp struct {
	kind     string // read, write or swap
	key      string
	old, val string
}

// registerResult is what it answered. An open one may have happened or not.
type registerResult struct {
	val     string
	swapped bool
	open    bool
}

// registers is the model of some registers of which each begins empty.
var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(registerOp).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, ops := range byKey {
			parts = append(parts, ops)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		at, in, out := state.(string), input.(registerOp), output.(registerResult)
		switch in.kind {
		case "read":
			return out.val == at, at
		case "write":
			return true, in.val
		default:
			if out.open {
				if at == in.old {
					return true, in.val
				}
				return true, at
			}
			if out.swapped {
				return at == in.old, in.val
			}
			return at != in.old, at
		}
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%+v -> %+v", input, output)
	},
}

// runRegister carries out one operation on a node. done is false if it certainly did
// not happen.
func runRegister(ctx context.Context, n *Node, op registerOp, withID bool) (res registerResult, done bool, err error) {
	if op.kind == "read" {
		if n.ReadBarrier(ctx) != nil {
			return res, false, nil //nolint:nilerr // it told nothing
		}
		return registerResult{val: n.Image().Configs(metadata.ResourceBroker, "")[op.key]}, true, nil
	}
	change := command.ConfigChange{Resource: command.ConfigResource{Kind: command.ResourceBroker}, Set: map[string]string{op.key: op.val}}
	if op.kind == "swap" {
		change.Expect = []command.ConfigExpectation{{Name: op.key, Value: op.old, Set: op.old != ""}}
	}
	cmd := &command.AlterConfigs{Changes: []command.ConfigChange{change}}
	if withID {
		cmd.RequestID = uuid.New()
	}
	result, err := n.Propose(ctx, cmd)
	switch {
	case errors.Is(err, metadata.ErrUnknownOutcome):
		return registerResult{open: true}, true, nil
	case errors.Is(err, metadata.ErrNotLeader), errors.Is(err, metadata.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		return res, false, nil
	case err != nil:
		return res, false, err
	}
	itemErr := result.Items[0].Err
	if itemErr != nil && !errors.Is(itemErr, command.ErrConflict) {
		return res, false, itemErr
	}
	return registerResult{swapped: itemErr == nil}, true, nil
}

// TestHistoryIsLinearizable runs clients against all nodes while nodes lose power,
// are cut off and hand the leadership over, and has porcupine look for an order that
// explains what the clients saw.
func TestHistoryIsLinearizable(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	c := newTestNodes(t, 3, Options{SnapshotEntries: 100, TrailingEntries: 30, SnapshotInterval: 50 * time.Millisecond})
	c.hints = true
	c.begin()
	var mu sync.Mutex
	var history []porcupine.Operation
	var open int
	began := time.Now()
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for id := range 6 {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(seed), uint64(id)))
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				node := c.nodeOf(id % 3)
				if node == nil {
					<-time.After(time.Millisecond)
					continue
				}
				op := registerOp{kind: []string{"read", "write", "swap"}[rng.IntN(3)], key: fmt.Sprint("k", rng.IntN(3)), val: fmt.Sprintf("%d-%d", id, i)}
				if op.kind == "swap" {
					op.old = node.Image().Configs(metadata.ResourceBroker, "")[op.key]
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				call := time.Since(began)
				res, done, err := runRegister(ctx, node, op, rng.IntN(2) == 0)
				ret := time.Since(began)
				cancel()
				if err != nil {
					t.Errorf("%+v: %v", op, err)
				}
				if !done {
					continue
				}
				mu.Lock()
				if res.open {
					open++
					ret = time.Hour // it may happen at any later time
				}
				history = append(history, porcupine.Operation{ClientId: id, Input: op, Call: int64(call), Output: res, Return: int64(ret)})
				mu.Unlock()
			}
		})
	}
	rng := rand.New(rand.NewPCG(uint64(seed), 99))
	length := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(history)
	}
	progress := func(n int) {
		t.Helper()
		from := length()
		require.Eventually(t, func() bool { return length() >= from+n }, 30*time.Second, time.Millisecond, "no progress")
	}
	for range 10 {
		progress(30)
		m := c.members[rng.IntN(3)]
		switch rng.IntN(3) {
		case 0:
			c.cut(m, []cableMode{swallows, hangs}[rng.IntN(2)])
			progress(50)
			c.cut(m, passes)
		case 1:
			c.kill(m, 0, seed)
			progress(20)
			c.start(m, nil)
		default:
			// It may fail where a leader is missing; what counts is the history.
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			t.Logf("hand over: %v", c.leader().node.TransferLeadership(ctx))
			cancel()
		}
	}
	progress(30)
	close(stop)
	clients.Wait()
	c.same()
	t.Logf("%d operations, %d of unknown outcome", len(history), open)
	result, info := porcupine.CheckOperationsVerbose(registers, history, 30*time.Second)
	if result == porcupine.Illegal {
		t.Fatalf("no order explains the history: %v", info)
	}
	require.Equal(t, porcupine.Ok, result)
}

// TestHistoryCheckFails makes sure that the check can: a read of what was overwritten
// before it began.
func TestHistoryCheckFails(t *testing.T) {
	history := []porcupine.Operation{
		{Input: registerOp{kind: "write", key: "k", val: "a"}, Call: 0, Output: registerResult{}, Return: 1},
		{Input: registerOp{kind: "write", key: "k", val: "b"}, Call: 2, Output: registerResult{}, Return: 3},
		{Input: registerOp{kind: "read", key: "k"}, Call: 4, Output: registerResult{val: "a"}, Return: 5},
	}
	require.False(t, porcupine.CheckOperations(registers, history))
}
