package checker

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMetadataHistories(t *testing.T) {
	op := func(begin, finish int64, a TopicAction, value string, answer TopicAnswer) TopicOp {
		return TopicOp{Topic: "t", Action: a, Value: value, Answer: answer, Begin: begin, Finish: finish}
	}
	cases := []struct {
		name string
		ops  []TopicOp
		bad  bool
	}{
		{"one after the other", []TopicOp{op(1, 2, CreateTopic, "a", Done), op(3, 4, CreateTopic, "b", Exists), op(5, 6, ReadTopic, "a", Done),
			op(7, 8, SetConfig, "c", Done), op(9, 10, ReadTopic, "c", Done), op(11, 12, DeleteTopic, "", Done),
			op(13, 14, DeleteTopic, "", Missing), op(15, 16, SetConfig, "d", Missing), op(17, 18, ReadTopic, "", Missing)}, false},
		{"created twice", []TopicOp{op(1, 2, CreateTopic, "a", Done), op(3, 4, CreateTopic, "b", Done)}, true},
		{"two winners at once", []TopicOp{op(1, 4, CreateTopic, "a", Done), op(2, 3, CreateTopic, "b", Done)}, true},
		{"one winner at once", []TopicOp{op(1, 4, CreateTopic, "a", Exists), op(2, 3, CreateTopic, "b", Done)}, false},
		{"an old state", []TopicOp{op(1, 2, CreateTopic, "a", Done), op(3, 4, ReadTopic, "", Missing)}, true},
		{"a lost change", []TopicOp{op(1, 2, CreateTopic, "a", Done), op(3, 4, SetConfig, "b", Done), op(5, 6, ReadTopic, "a", Done)}, true},
		{"deleted and back", []TopicOp{op(1, 2, CreateTopic, "a", Done), op(3, 4, DeleteTopic, "", Done), op(5, 6, CreateTopic, "b", Exists)}, true},
		{"an unknown outcome that happened", []TopicOp{op(1, 0, CreateTopic, "a", NoWord), op(3, 4, CreateTopic, "b", Exists)}, false},
		{"an unknown outcome that did not", []TopicOp{op(1, 0, CreateTopic, "a", NoWord), op(3, 4, CreateTopic, "b", Done)}, false},
		{"an unknown outcome that comes late", []TopicOp{op(1, 0, DeleteTopic, "", NoWord), op(3, 4, CreateTopic, "b", Done),
			op(5, 6, ReadTopic, "b", Done), op(7, 8, ReadTopic, "", Missing)}, false},
		{"an unknown outcome is no excuse for others", []TopicOp{op(1, 0, SetConfig, "x", NoWord), op(3, 4, CreateTopic, "b", Done),
			op(5, 6, ReadTopic, "y", Done)}, true},
		{"what was refused did not happen", []TopicOp{op(1, 2, CreateTopic, "a", Refused), op(3, 4, CreateTopic, "b", Exists)}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := CheckMetadata(c.ops, time.Second)
			if !c.bad {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrNotLinearizable)
		})
	}
}

// TestMetadataOfAMutex takes the history of topics that are a map under a lock.
func TestMetadataOfAMutex(t *testing.T) {
	var mu, record sync.Mutex
	state := map[string]topic{}
	var ops []TopicOp
	var clock int64
	now := func() int64 { record.Lock(); defer record.Unlock(); clock++; return clock }
	var wg sync.WaitGroup
	for client := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(client)))
			for i := range 150 {
				op := TopicOp{Client: client, Topic: fmt.Sprintf("t%d", r.IntN(3)), Value: fmt.Sprint(client, i)}
				op.Action = []TopicAction{CreateTopic, DeleteTopic, SetConfig, ReadTopic}[r.IntN(4)]
				op.Begin = now()
				mu.Lock()
				s := state[op.Topic]
				op.Answer = Missing
				switch {
				case op.Action == CreateTopic && s.exists:
					op.Answer = Exists
				case op.Action == CreateTopic || s.exists:
					op.Answer = Done
				}
				if op.Action == ReadTopic {
					op.Value = s.value
				}
				_, state[op.Topic] = step(s, &op)
				mu.Unlock()
				op.Finish = now()
				record.Lock()
				ops = append(ops, op)
				record.Unlock()
			}
		})
	}
	wg.Wait()
	require.NoError(t, CheckMetadata(ops, 20*time.Second))
}
