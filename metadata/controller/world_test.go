package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm"
	"github.com/firnlog/firn/metadata/link"
	"github.com/firnlog/firn/record"
)

// world is the metadata of a cluster without Raft, and the calls between its nodes
// without a network. Each proposal is applied at once.
type world struct {
	*fsm.FSM
	mu       sync.Mutex
	index    uint64
	subs     map[int]func(old, new *metadata.Image, delta metadata.Delta)
	handlers map[string]map[string]func(ctx context.Context, p link.Peer, body []byte) ([]byte, error)
	// cut are the nodes whose calls vanish, refuse what Verify says.
	cut    map[string]bool
	refuse error
	// delay is how long a call takes, there and back, and how long a command takes to
	// be applied; nil is no time.
	delay func() time.Duration
	// log are all commands, in order.
	log []command.Command
	// check is asked about each new image.
	check func(cmd command.Command, old, img *metadata.Image)
}

func newWorld(t testing.TB) *world {
	state, err := fsm.Open(fsm.Options{FS: vfs.NewMem(), Dir: "state"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, state.Close()) })
	return &world{FSM: state, subs: map[int]func(old, new *metadata.Image, delta metadata.Delta){}, cut: map[string]bool{},
		handlers: map[string]map[string]func(ctx context.Context, p link.Peer, body []byte) ([]byte, error){},
		check: func(_ command.Command, old, img *metadata.Image) {
			require.NoError(t, metadata.Check(img))
			require.NoError(t, metadata.CheckStep(old, img))
		}}
}

func (w *world) Propose(ctx context.Context, cmd command.Command) (command.Result, error) {
	if err := ctx.Err(); err != nil {
		return command.Result{}, err
	}
	data, err := command.Encode(cmd)
	if err != nil {
		return command.Result{}, err
	}
	w.mu.Lock()
	delay := w.delay
	w.mu.Unlock()
	if delay != nil {
		time.Sleep(delay())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.Image()
	w.index++
	o := w.ApplyBatch([]fsm.Entry{{Index: w.index, Data: data}})[0]
	w.log = append(w.log, cmd)
	w.check(cmd, old, w.Image())
	w.tellLocked(old)
	return o.Result, o.Err
}

// tell tells the subscribers of what changed since an image.
func (w *world) tell(old *metadata.Image) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tellLocked(old)
}

func (w *world) tellLocked(old *metadata.Image) {
	for _, fn := range w.subs {
		fn(old, w.Image(), metadata.Diff(old, w.Image()))
	}
}

func (w *world) Subscribe(fn func(old, new *metadata.Image, delta metadata.Delta)) (cancel func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := len(w.subs)
	for w.subs[id] != nil {
		id++
	}
	w.subs[id] = fn
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs, id)
	}
}

// node is one node's view of the calls.
type node struct {
	*world
	addr string
}

func (n node) HandleCall(name string, fn func(ctx context.Context, p link.Peer, body []byte) ([]byte, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handlers[n.addr] == nil {
		n.handlers[n.addr] = map[string]func(ctx context.Context, p link.Peer, body []byte) ([]byte, error){}
	}
	n.handlers[n.addr][name] = fn
}

func (n node) Call(ctx context.Context, addr, name string, body []byte) ([]byte, error) {
	n.mu.Lock()
	fn, cut, delay := n.handlers[addr][name], n.cut[n.addr] || n.cut[addr], n.delay
	n.mu.Unlock()
	if cut {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if fn == nil {
		return nil, errors.New("connection refused")
	}
	if delay == nil {
		return fn(ctx, link.Peer{}, body)
	}
	time.Sleep(delay())
	answer, err := fn(ctx, link.Peer{}, body)
	time.Sleep(delay())
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return answer, err
}

func (w *world) setCut(addr string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[addr] = cut
}

// controller makes the controller of a node called "leader", and runs it.
func (w *world) controller(upkeep UpkeepOptions) (c *Controller, stop func()) {
	c = New(Options{Meta: w, Calls: node{w, "leader"}, Upkeep: upkeep, Verify: func(context.Context) (uint64, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return 0, w.refuse
	}})
	return c, run(c.Run)
}

// run runs fn until stop.
func run(fn func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { fn(ctx) })
	return func() { cancel(); wg.Wait() }
}

// epochOfTests lies before the time that a bubble begins at.
var epochOfTests = time.Unix(0, 0)

// heartbeater makes the heartbeater of broker id.
func (w *world) heartbeater(id int32, dir uuid.UUID, edit func(*HeartbeaterOptions)) *Heartbeater {
	opts := HeartbeaterOptions{
		Registration: command.RegisterBroker{BrokerID: id, DirectoryID: dir},
		Meta:         w, Calls: node{w, fmt.Sprint("b", id)}, Leader: func() (string, bool) { return "leader", true },
		Clock: func() time.Duration { return time.Since(epochOfTests) },
	}
	if edit != nil {
		edit(&opts)
	}
	return NewHeartbeater(opts)
}

// join registers brokers 1 … n, runs their heartbeaters and waits until they are
// active.
func (w *world) join(t testing.TB, n int) (all []*Heartbeater, stop func()) {
	var stops []func()
	for id := range int32(n) {
		h := w.heartbeater(id+1, uuid.New(), nil)
		_, err := h.Register(t.Context())
		require.NoError(t, err)
		all = append(all, h)
		stops = append(stops, run(h.Run))
	}
	for _, h := range all {
		require.NoError(t, h.Active(t.Context()))
	}
	return all, func() {
		for _, s := range stops {
			s()
		}
	}
}

// topic makes a topic.
func (w *world) topic(t testing.TB, name string, by ...[]int32) record.TopicID {
	return w.newTopic(t, command.NewTopic{ID: record.NewTopicID(), Name: name, Assignments: by})
}

func (w *world) newTopic(t testing.TB, n command.NewTopic) record.TopicID {
	res, err := w.Propose(t.Context(), &command.CreateTopics{Topics: []command.NewTopic{n}})
	require.NoError(t, err)
	require.NoError(t, res.Items[0].Err)
	return n.ID
}

// isr has the leader of a partition set its ISR.
func (w *world) isr(t testing.TB, tp record.TopicPartition, isr ...int32) {
	img := w.Image()
	p := img.Partition(tp)
	ch := command.ISRChange{Partition: tp, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
	for _, id := range isr {
		ch.ISR = append(ch.ISR, command.ISRMember{BrokerID: id, BrokerEpoch: img.Broker(id).Epoch})
	}
	res, err := w.Propose(t.Context(), &command.AlterPartition{BrokerID: p.Leader, BrokerEpoch: img.Broker(p.Leader).Epoch, Partitions: []command.ISRChange{ch}})
	require.NoError(t, err)
	require.NoError(t, res.Items[0].Err)
}
