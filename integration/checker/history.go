package checker

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Kind is what a client did.
type Kind string

// The kinds of operations, and the fields of [Op] that each uses.
const (
	// Send hands one record to a producer: Value, Outcome, and Offset if it is OK;
	// Txn in a transaction.
	Send Kind = "send"
	// Poll receives records of one log: Records, ReadCommitted. A poll that
	// returned records of several logs is one operation for each.
	Poll Kind = "poll"
	// Assign moves a consumer: the next poll begins at Offset, or anywhere if that
	// is None, as after a rebalance.
	Assign Kind = "assign"
	// Drain says that the client has read everything from Offset up to Until, the
	// end of the log at Begin.
	Drain Kind = "drain"
	// End asks for the end of a log that is visible: Offset.
	End Kind = "end"
	// Start asks for the first offset of a log: Offset. Retention and deletion
	// excuse what is missing below it.
	Start Kind = "start"
	// Commit stores a position of Group: Offset, Outcome.
	Commit Kind = "commit"
	// Committed reads the position of Group: Offset, None where there is none.
	Committed Kind = "committed"
	// EndTxn ends transaction Txn: OK is committed, Failed is aborted. Log is empty.
	EndTxn Kind = "endtxn"
)

// Outcome is what came of a change.
type Outcome string

// The outcomes. The zero value is OK, which most are.
const (
	OK      Outcome = ""
	Failed  Outcome = "fail" // certainly not done, and never will be
	Unknown Outcome = "?"
)

// None is the offset where there is none.
const None = -1

// Record is a record as a poll received it.
type Record struct {
	Offset int64
	Value  string
}

// MarshalJSON writes [offset,"value"].
func (r Record) MarshalJSON() ([]byte, error) { return json.Marshal([2]any{r.Offset, r.Value}) }

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Record) UnmarshalJSON(b []byte) error {
	var pair []json.RawMessage
	if err := json.Unmarshal(b, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return errors.New("a record is [offset, value]")
	}
	return errors.Join(json.Unmarshal(pair[0], &r.Offset), json.Unmarshal(pair[1], &r.Value))
}

// Op is one operation of one client on one log, a line of the file.
type Op struct {
	// Client is one thread of one client: its operations of a kind are in order.
	Client string `json:"c"`
	Kind   Kind   `json:"k"`
	Log    string `json:"l,omitempty"` // TOPIC-PARTITION
	// Begin and Finish are in ns since the history began. Finish is 0 where no
	// answer came.
	Begin  int64 `json:"b"`
	Finish int64 `json:"e,omitempty"`

	Outcome       Outcome  `json:"r,omitempty"`
	Offset        int64    `json:"o"`
	Until         int64    `json:"u,omitempty"` // exclusive
	Value         string   `json:"v,omitempty"`
	Records       []Record `json:"x,omitempty"`
	Txn           string   `json:"t,omitempty"`
	Group         string   `json:"g,omitempty"`
	ReadCommitted bool     `json:"rc,omitempty"`
}

// String is the operation's line.
func (o Op) String() string {
	more := ""
	if n := len(o.Records); n > 8 { // enough to find it by
		o.Records = []Record{o.Records[0], o.Records[n-1]}
		more = fmt.Sprintf(" (the first and the last of %d records)", n)
	}
	b, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(b) + more
}

// before tells whether o had ended when p began.
func (o *Op) before(p *Op) bool { return o.Finish != 0 && o.Finish < p.Begin }

// History collects operations, in memory and, if asked for, as lines.
type History struct {
	began time.Time

	mu  sync.Mutex
	ops []Op
	out *json.Encoder // nil without a file
	err error         // the first of writing
}

// NewHistory begins a history. w may be nil; writes are made under the history's
// lock, so w should be buffered.
func NewHistory(w io.Writer) *History {
	h := &History{began: time.Now()}
	if w != nil {
		h.out = json.NewEncoder(w)
	}
	return h
}

// Now is the time for Begin and Finish; never 0.
func (h *History) Now() int64 { return max(1, int64(time.Since(h.began))) }

// Add notes an operation that ended, or that is given up.
func (h *History) Add(o Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
	if h.out != nil && h.err == nil {
		h.err = h.out.Encode(o)
	}
}

// Ops are the operations so far, in the order they were added. They must not be
// changed.
func (h *History) Ops() []Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ops[:len(h.ops):len(h.ops)]
}

// Err is why lines could not be written.
func (h *History) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// maxLine bounds a line that Read takes.
const maxLine = 64 << 20

// Read reads the lines that a history wrote. A last line that was cut off, as by
// the end of the process, is dropped.
func Read(r io.Reader) ([]Op, error) {
	var ops []Op
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	var bad error
	for n := 1; s.Scan(); n++ {
		if bad != nil {
			return nil, bad
		}
		if len(s.Bytes()) == 0 {
			continue
		}
		var o Op
		if err := json.Unmarshal(s.Bytes(), &o); err != nil {
			bad = fmt.Errorf("checker: line %d: %w", n, err) // unless it is the last one
			continue
		}
		ops = append(ops, o)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("checker: %w", err)
	}
	return ops, nil
}
