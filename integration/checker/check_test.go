package checker

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The cases write histories as text, an operation a line:
//
//	CLIENT BEGIN-FINISH KIND ARGUMENTS
//
// in whole seconds; a FINISH of "…" is none. send VALUE@OFFSET, fail VALUE,
// unknown VALUE, each with an optional transaction :TXN; poll and pollrc
// OFFSET=VALUE...; assign, end, start, commit, commitlost (of unknown outcome) and
// committed OFFSET; drain FROM..UNTIL; endtxn, aborttxn TXN.
func history(t *testing.T, text string) []Op {
	t.Helper()
	var ops []Op
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		o := Op{Client: words[0], Log: "t-0"}
		scan := func(s, format string, into ...any) {
			t.Helper()
			if _, err := fmt.Sscanf(s, format, into...); err != nil {
				t.Fatalf("%s: %q: %v", line, s, err)
			}
		}
		if from, to, _ := strings.Cut(words[1], "-"); to == "…" {
			scan(from, "%d", &o.Begin)
		} else {
			scan(from, "%d", &o.Begin)
			scan(to, "%d", &o.Finish)
		}
		args := words[3:]
		switch words[2] {
		case "send", "fail", "unknown":
			o.Kind = Send
			var value string
			value, o.Txn, _ = strings.Cut(args[0], ":")
			o.Outcome = map[string]Outcome{"send": OK, "fail": Failed, "unknown": Unknown}[words[2]]
			o.Value = value
			if o.Outcome == OK {
				var at string
				o.Value, at, _ = strings.Cut(value, "@")
				scan(at, "%d", &o.Offset)
			}
		case "poll", "pollrc":
			o.Kind, o.ReadCommitted = Poll, words[2] == "pollrc"
			for _, a := range args {
				at, value, _ := strings.Cut(a, "=")
				r := Record{Value: value}
				scan(at, "%d", &r.Offset)
				o.Records = append(o.Records, r)
			}
		case "drain":
			o.Kind = Drain
			scan(args[0], "%d..%d", &o.Offset, &o.Until)
		case "endtxn", "aborttxn":
			o.Kind, o.Txn, o.Log = EndTxn, args[0], ""
			if words[2] == "aborttxn" {
				o.Outcome = Failed
			}
		case "commitlost":
			o.Kind, o.Group, o.Outcome = Commit, "g", Unknown
			scan(args[0], "%d", &o.Offset)
		default:
			o.Kind, o.Group = Kind(words[2]), "g"
			scan(args[0], "%d", &o.Offset)
		}
		ops = append(ops, o)
	}
	return ops
}

// kinds are the distinct anomalies.
func kinds(found Findings) map[Anomaly]bool {
	all := map[Anomaly]bool{}
	for _, f := range found {
		all[f.Anomaly] = true
	}
	return all
}

func TestAnomalies(t *testing.T) {
	const three = `
		p 1-2 send a@0
		p 3-4 send b@1
		p 5-6 send c@2
`
	cases := []struct {
		name, text string
		want       []Anomaly
	}{
		{"clean", three + `
		c 7-8 assign 0
		c 8-9 poll 0=a 1=b 2=c
		c 9-9 drain 0..3
		c 9-10 end 3
		c 9-10 commit 3
		c 11-12 committed 3`, nil},
		{"a lost write below what was read", three + `
		c 7-8 poll 0=a
		c 8-9 assign 2
		c 9-10 poll 2=c`, []Anomaly{LostWrite}},
		{"a lost write in what was drained", three + `
		c 7-8 assign 0
		c 8-9 poll 0=a 1=b
		d 7-8 poll 0=a 1=b 2=c
		c 9-9 drain 0..3`, []Anomaly{LostWrite}},
		{"a lost tail", three + `
		c 7-8 assign 0
		c 8-9 poll 0=a 1=b
		c 9-9 drain 0..2`, []Anomaly{LostWrite}},
		{"retention excuses", three + `
		c 7-8 start 2
		c 8-9 poll 2=c
		c 9-9 drain 0..3
		d 9-10 assign 0
		d 10-11 poll 2=c`, nil},
		{"unacked records may be there or not", `
		p 1-2 send a@0
		p 3-… unknown b
		p 3-… unknown c
		p 5-6 send d@2
		c 7-8 poll 0=a 1=c 2=d
		c 9-9 drain 0..3`, nil},
		{"a value that nobody sent", three + "c 7-8 poll 0=a 1=b 2=c 3=x", []Anomaly{DirtyRead}},
		{"a value of the future", "c 1-2 poll 0=a\np 3-4 send a@0", []Anomaly{DirtyRead}},
		{"a value whose send failed", "p 1-2 fail a\nc 3-4 poll 0=a", []Anomaly{AbortedRead}},
		{"a duplicate", "p 1-2 send a@0\nc 3-4 poll 0=a 1=a", []Anomaly{Duplicate}},
		{"two values at an offset, by two readers", `
		p 1-… unknown a
		q 1-… unknown b
		c 3-4 poll 0=a
		d 3-4 poll 0=b`, []Anomaly{InconsistentOffset}},
		{"two values at an offset, by two acks", "p 1-3 send a@0\nq 2-4 send b@0", []Anomaly{InconsistentOffset}},
		{"acked at one offset, read at another", "p 1-3 send a@0\nc 4-5 poll 1=a", []Anomaly{InconsistentOffset}},
		{"a poll that goes back", three + "c 7-8 poll 1=b 0=a 1=b 2=c", []Anomaly{IntPoll}},
		{"a poll that repeats", three + "c 7-8 poll 0=a 1=b 1=b 2=c", []Anomaly{IntPoll}},
		{"polls that go back", three + "c 7-8 poll 0=a 1=b\nc 8-9 poll 1=b 2=c", []Anomaly{ExtPoll}},
		{"a poll below where it was sent", three + "c 6-7 assign 1\nc 7-8 poll 0=a 1=b 2=c", []Anomaly{ExtPoll}},
		{"polls may go back after an assignment", three + "c 7-8 poll 0=a 1=b\nc 8-8 assign -1\nc 8-9 poll 1=b 2=c", nil},
		{"a consumer that is moved while it waits", three + "c 7-8 poll 0=a 1=b\nc 9-12 poll 1=b 2=c\nc 10-11 assign -1", nil},
		{"a poll that skips", three + "d 7-8 poll 1=b\nc 7-8 poll 0=a 2=c", []Anomaly{IntSkip}},
		{"polls that skip", three + "d 7-8 poll 1=b\nc 7-8 poll 0=a\nc 8-9 poll 2=c", []Anomaly{ExtSkip}},
		{"skips after an assignment to an offset", three + "d 7-8 poll 0=a\nc 6-7 assign 0\nc 7-8 poll 1=b 2=c", []Anomaly{ExtSkip}},
		{"a hole", "p 1-2 send a@0\np 3-4 send b@5\nc 5-6 poll 0=a 5=b", []Anomaly{Gap}},
		{"one producer's pipeline out of order", "p 1-5 send a@1\np 2-4 send b@0", []Anomaly{IntSend}},
		{"one producer's pipeline out of order, as it is read", `
		p 1-… unknown a
		p 2-… unknown b
		c 6-7 poll 0=b 1=a`, []Anomaly{IntSend}},
		{"one producer's sends out of order", "p 1-2 send a@1\np 3-4 send b@0", []Anomaly{ExtSend}},
		{"two producers' sends out of order", "p 1-2 send a@1\nq 3-4 send b@0", []Anomaly{StaleSend}},
		{"two producers at once have no order", "p 1-3 send a@1\nq 2-4 send b@0", nil},
		{"an end below an ack", "p 1-2 send a@0\nc 3-4 end 0", []Anomaly{EndBack}},
		{"an end below a read", "p 1-… unknown a\nc 3-4 poll 0=a\nc 5-6 end 0", []Anomaly{EndBack}},
		{"an end below an end", "c 3-4 end 7\nc 5-6 end 6", []Anomaly{EndBack}},
		{"ends at once have no order", "c 3-5 end 7\nd 4-6 end 6", nil},
		{"a position that goes back", "c 1-2 commit 7\nd 3-4 committed 6", []Anomaly{CommitBack}},
		{"a position that is gone", "c 1-2 commit 7\nd 3-4 committed -1", []Anomaly{CommitBack}},
		{"a position that goes back to a commit that may come late", "c 1-2 commitlost 6\nc 3-4 commit 7\nd 5-6 committed 6", nil},
		{"a position that goes back to another", "c 1-2 commitlost 5\nc 3-4 commit 7\nd 5-6 committed 6", []Anomaly{CommitBack}},
		{"a position that goes back to one of a later commit", "c 3-4 commit 7\nd 5-6 committed 6\nc 7-8 commitlost 6", []Anomaly{CommitBack}},
		{"a commit that is under way", "c 1-4 commit 7\nd 3-5 committed -1", nil},
		{"a transaction", `
		p 1-2 send a@0:x
		p 3-4 send b@1:y
		p 4-5 endtxn x
		p 6-7 aborttxn y
		c 8-9 pollrc 0=a
		d 8-9 poll 0=a 1=b`, nil},
		{"an aborted transaction", "p 1-2 send a@0:x\np 3-4 aborttxn x\nc 5-6 pollrc 0=a", []Anomaly{AbortedRead}},
		{"a transaction under way", "p 1-2 send a@0:x\nc 5-6 pollrc 0=a\np 7-8 endtxn x", []Anomaly{PrecommittedRead}},
		{"a lost transaction", "p 1-2 send a@0:x\np 3-4 endtxn x\np 5-6 send b@2\nc 7-8 pollrc 2=b", []Anomaly{LostWrite}},
	}
	seen := map[Anomaly]bool{}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ops := history(t, c.text)
			want := map[Anomaly]bool{}
			for _, a := range c.want {
				want[a], seen[a] = true, true
			}
			found := Check(ops, Options{Dense: !strings.Contains(c.text, "txn")})
			require.Equal(t, want, kinds(found), "%s", found)
			if len(c.want) > 0 {
				require.Contains(t, found.String(), string(c.want[0])+": 1\n  t-0: ")
			}

			// And from its file.
			var file bytes.Buffer
			h := NewHistory(&file)
			for _, o := range ops {
				h.Add(o)
			}
			require.NoError(t, h.Err())
			read, err := Read(&file)
			require.NoError(t, err)
			require.Equal(t, ops, read)
			require.Equal(t, ops, h.Ops())
		})
	}
	for _, a := range []Anomaly{LostWrite, DirtyRead, AbortedRead, PrecommittedRead, Duplicate, InconsistentOffset, IntPoll, ExtPoll,
		IntSkip, ExtSkip, Gap, IntSend, ExtSend, StaleSend, EndBack, CommitBack} {
		require.True(t, seen[a], "no case has a %s", a)
	}
}

func TestReadCutOff(t *testing.T) {
	ops, err := Read(strings.NewReader(`{"c":"p","k":"send","l":"t-0","b":1,"e":2,"o":0,"v":"a"}` + "\n" + `{"c":"p","k":"se`))
	require.NoError(t, err)
	require.Len(t, ops, 1)
	_, err = Read(strings.NewReader(`{"c":"p","k":"se` + "\n" + `{"c":"p","k":"send","l":"t-0","b":1,"e":2,"o":0,"v":"a"}`))
	require.ErrorContains(t, err, "line 1")
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"c":"p","k":"send","l":"t-0","b":1,"e":2,"o":0,"v":"a"}` + "\n" + `{"c":"c","k":"poll","l":"t-0","b":3,"e":4,"o":0,"x":[[0,"a"],[1,"b"]]}`))
	f.Add([]byte(`{"k":"poll","x":[[0]]}` + "\n\n" + `{"k":"endtxn","t":"x","r":"fail"}`))
	f.Add([]byte(`{"k":"drain","o":-1,"u":9223372036854775807}` + "\n" + `{"k":"nonsense"}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		ops, err := Read(bytes.NewReader(file))
		if err != nil {
			return
		}
		_ = Check(ops, Options{Dense: true}).String() // whatever they say, it ends
		for _, o := range ops {
			_ = o.String()
		}
	})
}
