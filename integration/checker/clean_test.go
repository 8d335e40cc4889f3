package checker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// world is a log that never fails, and clients of it that do anything they may.
type world struct {
	t    *rapid.T
	now  int64
	log  []string // value by offset
	ops  []Op
	next map[string]int64 // position by consumer
	sent int
	tail []Op // sends without an answer so far
}

// tick advances time.
func (w *world) tick() int64 { w.now++; return w.now }

// generate runs random steps. Sends are appended at once or while others happen;
// some answers are lost, with and without effect, and some sends fail.
func generate(t *rapid.T) []Op {
	w := &world{t: t, next: map[string]int64{}}
	steps := rapid.IntRange(1, 80).Draw(t, "steps")
	for range steps {
		switch rapid.IntRange(0, 9).Draw(t, "step") {
		case 0, 1, 2, 3:
			w.send()
		case 4, 5, 6:
			w.poll(rapid.SampledFrom([]string{"c", "d"}).Draw(t, "consumer"))
		case 7:
			c := rapid.SampledFrom([]string{"c", "d"}).Draw(t, "consumer")
			at := rapid.Int64Range(0, int64(len(w.log))).Draw(t, "at")
			w.next[c] = at
			if rapid.Bool().Draw(t, "told") {
				w.add(Op{Client: c, Kind: Assign, Begin: w.tick(), Finish: w.tick(), Offset: at})
			} else {
				w.add(Op{Client: c, Kind: Assign, Begin: w.tick(), Finish: w.tick(), Offset: None})
			}
		case 8:
			w.add(Op{Client: "e", Kind: End, Begin: w.tick(), Offset: int64(len(w.log)), Finish: w.tick()})
		case 9:
			w.answer()
		}
	}
	for len(w.tail) > 0 {
		w.answer()
	}
	// A last reader sees everything.
	begin := w.tick()
	w.next["last"] = 0
	for w.next["last"] < int64(len(w.log)) {
		w.poll("last")
	}
	w.add(Op{Client: "last", Kind: Drain, Begin: begin, Finish: w.tick(), Offset: 0, Until: int64(len(w.log))})
	return w.ops
}

func (w *world) add(o Op) {
	o.Log = "t-0"
	w.ops = append(w.ops, o)
}

func (w *world) send() {
	w.sent++
	client := rapid.SampledFrom([]string{"p", "q"}).Draw(w.t, "producer")
	o := Op{Client: client, Kind: Send, Begin: w.tick(), Value: fmt.Sprint(w.sent)}
	switch rapid.IntRange(0, 9).Draw(w.t, "outcome") {
	case 0:
		o.Outcome = Failed
	case 1:
		o.Outcome = Unknown // without effect
	case 2:
		o.Outcome = Unknown
		w.log = append(w.log, o.Value)
	default:
		o.Offset = int64(len(w.log))
		w.log = append(w.log, o.Value)
	}
	w.tail = append(w.tail, o)
	if rapid.Bool().Draw(w.t, "at once") {
		w.answer()
	}
}

// answer lets any of the sends under way end.
func (w *world) answer() {
	if len(w.tail) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.tail)-1).Draw(w.t, "answered")
	o := w.tail[i]
	w.tail = slices.Delete(w.tail, i, i+1)
	if o.Outcome != Unknown || rapid.Bool().Draw(w.t, "timed out") {
		o.Finish = w.tick()
	}
	w.add(o)
}

func (w *world) poll(c string) {
	at := w.next[c]
	n := rapid.Int64Range(0, int64(len(w.log))-at).Draw(w.t, "records")
	o := Op{Client: c, Kind: Poll, Begin: w.tick()}
	for ; n > 0; n-- {
		o.Records = append(o.Records, Record{at, w.log[at]})
		at++
	}
	o.Finish = w.tick()
	w.next[c] = at
	if len(o.Records) > 0 {
		w.add(o)
	}
}

func TestCleanHistoriesPass(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ops := generate(t)
		found := Check(ops, Options{Dense: true})
		if len(found) > 0 {
			t.Fatalf("%s", found)
		}
	})
}

// TestSpoiledHistoriesFail takes a clean history and spoils one thing in it.
func TestSpoiledHistoriesFail(t *testing.T) {
	spoilers := map[string]func(ops []Op) (want Anomaly, ok bool){
		"forget an acked record": func(ops []Op) (Anomaly, bool) {
			for _, o := range ops {
				if o.Kind == Send && o.Outcome == OK {
					for i := range ops {
						ops[i].Records = slices.DeleteFunc(ops[i].Records, func(r Record) bool { return r.Value == o.Value })
					}
					return LostWrite, true
				}
			}
			return "", false
		},
		"change a value that was read": func(ops []Op) (Anomaly, bool) {
			for i := range ops {
				if len(ops[i].Records) > 0 {
					ops[i].Records[0].Value = "garbage"
					return DirtyRead, true
				}
			}
			return "", false
		},
		"make a failure of an ack": func(ops []Op) (Anomaly, bool) {
			for i := range ops {
				if ops[i].Kind == Send && ops[i].Outcome == OK {
					ops[i].Outcome = Failed
					return AbortedRead, true
				}
			}
			return "", false
		},
		"read a value twice": func(ops []Op) (Anomaly, bool) {
			for i := len(ops) - 1; i >= 0; i-- {
				if n := len(ops[i].Records); n > 0 {
					last := ops[i].Records[n-1]
					ops[i].Records = append(ops[i].Records, Record{last.Offset + 1, last.Value})
					return Duplicate, true
				}
			}
			return "", false
		},
		"swap two values": func(ops []Op) (Anomaly, bool) {
			for i := range ops {
				if r := ops[i].Records; ops[i].Client == "last" && len(r) > 1 {
					r[0].Value, r[1].Value = r[1].Value, r[0].Value
					for _, o := range ops {
						if o.Kind == Send && o.Outcome == OK && (o.Value == r[0].Value || o.Value == r[1].Value) {
							return InconsistentOffset, true
						}
					}
					return "", false
				}
			}
			return "", false
		},
	}
	for name, spoil := range spoilers {
		t.Run(name, func(t *testing.T) {
			applied := 0
			rapid.Check(t, func(t *rapid.T) {
				ops := generate(t)
				want, ok := spoil(ops)
				if !ok {
					return
				}
				applied++
				if found := Check(ops, Options{Dense: true}); !kinds(found)[want] {
					t.Fatalf("no %s found: %s", want, found)
				}
			})
			require.Greater(t, applied, 20)
		})
	}
}

// TestLargeHistory is what a minute of load makes; its check must not take long.
func TestLargeHistory(t *testing.T) {
	const n = 200_000
	r := rand.New(rand.NewPCG(1, 2))
	var ops []Op
	at := map[string]int64{}
	now := int64(0)
	for i := range int64(n) {
		now += 10
		ops = append(ops, Op{Client: fmt.Sprintf("p%d", i%8), Kind: Send, Log: "t-0", Begin: now, Finish: now + 5, Offset: i, Value: fmt.Sprint(i)})
		if i%100 == 99 {
			c := fmt.Sprintf("c%d", r.IntN(4))
			o := Op{Client: c, Kind: Poll, Log: "t-0", Begin: now + 6, Finish: now + 7}
			for ; at[c] <= i; at[c]++ {
				o.Records = append(o.Records, Record{at[c], fmt.Sprint(at[c])})
			}
			ops = append(ops, o)
		}
	}
	require.Empty(t, Check(ops, Options{Dense: true}))
}
