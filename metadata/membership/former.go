package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// CallForm is the name of the call that carries a Message and answers an Answer.
const CallForm = "form"

// FormerOptions configure a Former.
type FormerOptions struct {
	Membership *Membership
	Calls      Calls
	// FS and Ledger are where the ledger is kept. FS nil is the operating system's.
	FS     vfs.FS
	Ledger string
	// Expect is bootstrap.expect.
	Expect int
	// HasState: there is Raft state on disk, so the node only resumes.
	HasState bool
	// Applicant is what the node says when it applies; node and directory id, address
	// and time are filled in.
	Applicant Applicant
	// Begin is called before the first thing is written, and before Wait has an
	// outcome: the data directory keeps its name from then on. It may be called more
	// than once. Nil: nobody asks.
	Begin func() error
	// Patience is how long a refusal is asked about again that may pass by itself: the
	// past life of a wiped node lives on in its lease. Default 10 s.
	Patience time.Duration
	// Waiting is told what the node waits for, in words that follow "waits for", again
	// when they change, until Wait has an outcome. It must not block. Nil: nobody asks.
	Waiting func(what string)
	Logger  *slog.Logger
}

// Outcome is how a node goes on: it opens Raft as Kind says.
type Outcome struct {
	Kind OutcomeKind // Resume, Bootstrap or Join
	// Servers are the voters to bootstrap with, this node among them.
	Servers []Server
	// ClusterID is the id of the cluster that was asked, "" if nobody could be.
	ClusterID string
}

// Former carries out Formation and the checks that come before it. Goroutines: one
// that owns the machine and writes the ledger, and one for each call under way, of
// which there are at most one per peer and round. Close stops them.
type Former struct {
	o      FormerOptions
	log    *slog.Logger
	cancel context.CancelFunc
	ctx    context.Context //nolint:containedctx // the life of the goroutines, ended by Close
	calls  sync.WaitGroup
	done   chan struct{}

	requests chan request
	answers  chan timed
	wake     chan struct{}
	outcome  chan Outcome
	failure  chan error
}

type request struct {
	message Message
	answer  chan Answer
}

// timed is an answer, with how far its sender's clock is ahead of ours beyond what
// the call's duration explains.
type timed struct {
	Answer
	ahead time.Duration
}

// clockAhead is that, for an answer to a call that was made at sent; zero for one of an
// older program, which tells no time.
func clockAhead(sent time.Time, took time.Duration, theirs int64) time.Duration {
	if theirs == 0 {
		return 0
	}
	ahead, slack := time.UnixMilli(theirs).Sub(sent.Add(took/2)), took/2
	return ahead - min(max(ahead, -slack), slack)
}

// callTimeout bounds one call of the formation.
const callTimeout = 2 * time.Second

// NewFormer reads the ledger and begins. Serve Handle under CallForm before.
func NewFormer(o FormerOptions) (*Former, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Patience <= 0 {
		o.Patience = 10 * time.Second
	}
	ledger, err := readLedger(o.FS, o.Ledger)
	if err != nil {
		return nil, err
	}
	self := o.Membership.Self()
	o.Applicant.NodeID, o.Applicant.DirectoryID, o.Applicant.Address = self.NodeID, self.DirectoryID, self.ClusterAddr
	ctx, cancel := context.WithCancel(context.Background())
	f := &Former{
		o: o, log: o.Logger, ctx: ctx, cancel: cancel, done: make(chan struct{}),
		requests: make(chan request), answers: make(chan timed), wake: make(chan struct{}, 1),
		outcome: make(chan Outcome, 1), failure: make(chan error, 1),
	}
	machine := NewFormation(Server{DirectoryID: self.DirectoryID, Address: self.ClusterAddr}, o.Expect, ledger,
		rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	go f.loop(&course{f: f, machine: machine, written: ledger, formed: o.HasState})
	return f, nil
}

// Wait returns how the node goes on. An error is final: the node must not run. It
// is a *Refusal, wraps one of the package's errors, or is the ledger's or ctx's.
func (f *Former) Wait(ctx context.Context) (Outcome, error) {
	select {
	case o := <-f.outcome:
		return o, nil
	case err := <-f.failure:
		return Outcome{}, err
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	case <-f.done:
		return Outcome{}, context.Canceled
	}
}

// Handle answers a call of CallForm, also long after this node went on.
func (f *Former) Handle(ctx context.Context, body []byte) ([]byte, error) {
	r := request{answer: make(chan Answer, 1)}
	if err := json.Unmarshal(body, &r.message); err != nil {
		return nil, fmt.Errorf("membership: form: %w", err)
	}
	select {
	case f.requests <- r:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.done:
		return nil, errors.New("membership: form: this node stops")
	}
	select {
	case a := <-r.answer:
		return json.Marshal(&a)
	case <-f.done:
		return nil, errors.New("membership: form: this node stops")
	}
}

// Close stops the goroutines.
func (f *Former) Close() {
	f.cancel()
	<-f.done
	f.calls.Wait()
}

// course is what the loop's goroutine owns.
type course struct {
	f       *Former
	machine *Formation
	written Ledger

	checked bool // the node may run, as far as gossip tells
	formed  bool // it has Raft state, or is about to
	ended   bool // Wait was answered

	tried   time.Time // when all addresses had been tried
	asking  bool      // an application is under way
	again   time.Time // when the next may be made
	applied chan application
	since   time.Time // the first refusal that may pass
	told    time.Time // when the waiting was last explained
}

type application struct {
	clusterID string
	err       error
}

// tick is the most time between two looks at the world.
const tick = 50 * time.Millisecond

func (f *Former) loop(c *course) {
	defer close(f.done)
	c.applied = make(chan application, 1)
	cancel := f.o.Membership.Subscribe(func(Event) {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	})
	defer cancel()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	c.told = time.Now()
	for {
		var err error
		select {
		case <-f.ctx.Done():
			return
		case r := <-f.requests:
			err = c.handle(r)
		case a := <-f.answers:
			err = c.answered(a)
		case a := <-c.applied:
			err = c.judged(a)
		case <-f.wake:
			err = c.step()
		case <-ticker.C:
			err = c.step()
		}
		if err != nil && !c.ended {
			c.ended = true
			f.failure <- err
		}
		if c.ended {
			ticker.Stop() // only requests are left
		}
	}
}

// save writes the ledger if it changed.
func (c *course) save() error {
	now := c.machine.Ledger()
	if now.equal(&c.written) {
		return nil
	}
	if err := c.f.begin(); err != nil {
		return err
	}
	if err := writeLedger(c.f.o.FS, c.f.o.Ledger, &now); err != nil {
		return err
	}
	c.written = now
	return nil
}

func (f *Former) begin() error {
	if f.o.Begin == nil {
		return nil
	}
	return f.o.Begin()
}

func (c *course) handle(r request) error {
	if !c.checked || c.ended && !c.formed { // it may not run: it takes no part
		r.answer <- Answer{Kind: r.message.Kind, From: c.f.o.Applicant.DirectoryID, Ballot: r.message.Ballot, Expect: c.f.o.Expect, Time: time.Now().UnixMilli()}
		return nil
	}
	a := c.machine.Handle(&r.message, c.formed)
	a.Time = time.Now().UnixMilli()
	if err := c.save(); err != nil {
		close(r.answer) // the reader is told below by the zero answer, which promises nothing
		return err
	}
	r.answer <- a
	return nil
}

func (c *course) answered(a timed) error {
	if c.ended {
		return nil
	}
	c.machine.HeardClock(a.From, a.ahead)
	if a.Expect != 0 && a.Expect != c.f.o.Expect {
		c.f.log.Warn("cluster: a peer has another bootstrap.expect: they must be the same for a cluster to begin", "directory", a.From, "theirs", a.Expect, "ours", c.f.o.Expect)
	}
	out := c.machine.Answered(time.Now(), &a.Answer)
	if err := c.save(); err != nil {
		return err
	}
	c.send(out)
	return c.step()
}

// send makes the calls; answers come back to the loop.
func (c *course) send(out []Outgoing) {
	f := c.f
	for _, o := range out {
		f.calls.Go(func() {
			ctx, cancel := context.WithTimeout(f.ctx, callTimeout)
			defer cancel()
			body, err := json.Marshal(&o.Message)
			if err != nil {
				f.log.Error("cluster: message cannot be written", "err", err)
				return
			}
			sent := time.Now()
			reply, err := f.o.Calls.Call(ctx, o.Address, CallForm, body)
			took := time.Since(sent)
			var a Answer
			if err == nil {
				err = json.Unmarshal(reply, &a)
			}
			if err != nil {
				f.log.Debug("cluster: a peer does not answer", "addr", o.Address, "err", err)
				return
			}
			select {
			case f.answers <- timed{a, clockAhead(sent, took, a.Time)}:
			case <-f.ctx.Done():
			}
		})
	}
}

// step looks at the world: first whether this node may run, then what it does.
func (c *course) step() error {
	if c.ended {
		return nil
	}
	m, now := c.f.o.Membership, time.Now()
	if !c.checked {
		ok, err := c.check(now)
		if !ok || err != nil {
			return err
		}
		c.checked = true
		if err := m.SetTags(func(t *Tags) { t.State = Forming }); err != nil {
			return err
		}
	}
	members := m.Members()
	view := &View{HasState: c.formed, Members: members, Named: m.named(), Tried: true}
	s := c.machine.Step(now, view)
	if s.Refused != nil {
		return s.Refused
	}
	if err := c.save(); err != nil {
		return err
	}
	c.send(s.Send)
	switch s.Outcome {
	case Wait:
		c.explain(now, view)
	case Bootstrap:
		return c.end(Outcome{Kind: Bootstrap, Servers: s.Servers})
	case Join:
		c.ask(now, s.Members)
	case Resume:
		return c.resume(now, members)
	}
	return nil
}

// check waits until gossip has told what it can, and says whether the node may run.
// What gossip finds later is told, and stops nobody: the one who starts is wrong.
func (c *course) check(now time.Time) (ok bool, err error) {
	m := c.f.o.Membership
	select {
	case <-m.Tried():
	default:
		return false, nil
	}
	if c.tried.IsZero() {
		c.tried = now
	}
	if !m.quiet(c.tried) || m.suspecting() {
		return false, nil
	}
	return true, troubles(m)
}

// troubles is what gossip found that this node must not run with. Strangers are no
// fault of a node that found its own cluster too, nor is a wrong key of one that
// reached anybody.
func troubles(m *Membership) error {
	for _, problem := range m.Problems() {
		switch {
		case errors.Is(problem, ErrForeignCluster) && m.amongItsOwn():
		case errors.Is(problem, ErrWrongKey) && m.accompanied():
		default:
			return problem
		}
	}
	return nil
}

// resume asks a living member of the cluster, if there is one, whether anything
// changed that this node cannot go on with.
func (c *course) resume(now time.Time, members []Member) error {
	var others []Member
	for _, m := range members {
		if m.Status == Alive && m.ClusterID != "" && m.DirectoryID != c.f.o.Applicant.DirectoryID {
			others = append(others, m)
		}
	}
	if len(others) == 0 {
		return c.judged(application{err: errNobody})
	}
	c.ask(now, others)
	return nil
}

// errNobody: there is nobody to ask.
var errNobody = errors.New("nobody to ask")

// askAgain is the pause between two applications.
const askAgain = 300 * time.Millisecond

// ask applies to the members in turn, until one answers.
func (c *course) ask(now time.Time, members []Member) {
	if c.asking || now.Before(c.again) {
		return
	}
	c.asking, c.again = true, now.Add(askAgain)
	f := c.f
	rand.Shuffle(len(members), func(a, b int) { members[a], members[b] = members[b], members[a] })
	f.calls.Go(func() {
		result := application{err: errNobody}
		for _, m := range members {
			ctx, cancel := context.WithTimeout(f.ctx, callTimeout)
			id, err := apply(ctx, f.o.Calls, m.ClusterAddr, f.o.Applicant)
			cancel()
			result = application{id, err}
			var refused *Refusal
			if err == nil || errors.As(err, &refused) {
				break
			}
			f.log.Debug("cluster: a member does not say whether this node may join", "member", m, "err", err)
		}
		c.applied <- result
	})
}

// judged takes the word of the cluster.
func (c *course) judged(a application) error {
	c.asking = false
	if c.ended {
		return nil
	}
	var refused *Refusal
	switch {
	case a.err == nil && c.formed:
		return c.end(Outcome{Kind: Resume, ClusterID: a.clusterID})
	case a.err == nil:
		return c.end(Outcome{Kind: Join, ClusterID: a.clusterID})
	case errors.As(a.err, &refused):
		if c.since.IsZero() {
			c.since = time.Now()
		}
		if (errors.Is(refused, ErrDuplicateNode) || errors.Is(refused, ErrSameAddress)) && time.Since(c.since) < c.f.o.Patience {
			return nil // a past life whose lease has not ended
		}
		return refused
	case c.formed: // Raft will find them
		return c.end(Outcome{Kind: Resume})
	}
	return nil
}

func (c *course) end(o Outcome) error {
	if err := c.f.begin(); err != nil {
		return err
	}
	c.ended, c.formed = true, true
	m := c.f.o.Membership
	if err := m.SetTags(func(t *Tags) {
		t.State = Formed
		if o.ClusterID != "" {
			t.ClusterID = o.ClusterID
		}
	}); err != nil {
		return err
	}
	m.Remember()
	c.f.log.Info("cluster: "+o.Kind.String(), "servers", len(o.Servers), "cluster", o.ClusterID)
	c.f.outcome <- o
	return nil
}

// explainEvery is how often a node that waits says what for.
const explainEvery = 10 * time.Second

func (c *course) explain(now time.Time, v *View) {
	candidates := 0
	for _, m := range v.Members {
		if m.Status == Alive && m.State == Forming && m.Expect == c.f.o.Expect {
			candidates++
		}
	}
	needed := quorum(c.f.o.Expect, candidates, v.Named)
	off := c.machine.ClocksOff(v)
	if c.f.o.Waiting != nil {
		what := waitsFor(needed-candidates, c.f.o.Expect)
		if needed > candidates-len(off) && len(off) > 0 {
			what = fmt.Sprintf("clocks that agree: that of this node, and that of %s, are more than %s apart", nodes(off), MaxClockSkew)
		}
		c.f.o.Waiting(what)
	}
	if now.Sub(c.told) < explainEvery {
		return
	}
	c.told = now
	var seen []string
	for _, m := range v.Members {
		seen = append(seen, fmt.Sprintf("%s is %s, %s", m, m.Status, m.State))
		if m.Status == Alive && m.Expect != c.f.o.Expect {
			c.f.log.Warn("cluster: a peer has another bootstrap.expect: they must be the same for a cluster to begin", "member", m, "theirs", m.Expect, "ours", c.f.o.Expect)
		}
	}
	for _, m := range off {
		c.f.log.Warn("cluster: the clock of a peer, or of this node, is off: no cluster begins with both; set them, and keep them by NTP", "member", m,
			"ahead", c.machine.clocks.ahead[m.DirectoryID].Round(time.Second))
	}
	slices.Sort(seen)
	c.f.log.Info("cluster: waits for brokers to begin with", "needed", needed, "candidates", candidates,
		"bootstrap.expect", c.f.o.Expect, "named by cluster.join", v.Named, "seen", strings.Join(seen, "; "))
}

// waitsFor names what a node waits for that lacks so many others to begin a cluster with.
func waitsFor(lacks, expect int) string {
	switch {
	case lacks <= 0:
		return "the other brokers to agree on how a cluster begins"
	case lacks == 1:
		return fmt.Sprintf("1 more broker to begin a cluster with (bootstrap.expect=%d)", expect)
	}
	return fmt.Sprintf("%d more brokers to begin a cluster with (bootstrap.expect=%d)", lacks, expect)
}
