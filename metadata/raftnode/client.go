package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm"
	"github.com/firnlog/firn/metadata/link"
)

// The calls that a node answers to others while it leads.
const (
	callPropose = "metadata-propose"
	callBarrier = "metadata-barrier"
	callServers = "metadata-servers"
	callQuorum  = "metadata-quorum"
)

// The codes of their errors.
const (
	// codeNotLeader: the node does not lead, nothing was done.
	codeNotLeader = "not_leader"
	// codeUnknownOutcome: leadership or time ended half way.
	codeUnknownOutcome = "unknown_outcome"
	// codeInvalid: the node does not understand the request; nothing was done.
	codeInvalid = "invalid"
	// codeConflict: the servers changed since the request's index; nothing was done.
	codeConflict = "conflict"
)

const (
	// patience bounds a proposal whose context has no end.
	patience = 30 * time.Second
	// retryPause is how long a retry waits, unless the leader changes before.
	retryPause = 50 * time.Millisecond
)

// Propose implements metadata.Client. A node that does not lead forwards the
// command, and waits until its own image has the result's index. Without a leader
// it waits for one, as long as the context, at most 30 s; then the error is
// ErrNotLeader. A command with a request id is tried again after an unknown
// outcome too.
func (n *Node) Propose(ctx context.Context, cmd command.Command) (command.Result, error) {
	data, err := n.encode(cmd)
	if err != nil {
		return command.Result{}, err
	}
	repeatable := command.RequestIDOf(cmd) != uuid.Nil
	var outcome fsm.Outcome
	err = n.retry(ctx, repeatable, func(ctx context.Context) (err error) {
		if n.leads() {
			outcome, err = n.apply(ctx, data)
			return err
		}
		outcome, err = n.forwardProposal(ctx, data)
		return err
	})
	if err != nil {
		return command.Result{}, fmt.Errorf("propose %s: %w", cmd.Kind(), err)
	}
	return outcome.Result, outcome.Err
}

// encode writes a command in the version that the cluster's level allows, as far as
// this node has heard: an older one than the others write is applied as well.
func (n *Node) encode(cmd command.Command) ([]byte, error) {
	return command.EncodeAt(cmd, n.Image().Level().CommandVersion())
}

// ReadBarrier implements metadata.Client. It waits for a leader like Propose.
func (n *Node) ReadBarrier(ctx context.Context) error {
	err := n.retry(ctx, true, func(ctx context.Context) error {
		if n.leads() {
			return n.barrier(ctx)
		}
		answer, err := n.callLeader(ctx, callBarrier, nil)
		if err != nil {
			return err
		}
		if len(answer) != 8 {
			return fmt.Errorf("%w: answer of %d bytes", command.ErrCorrupt, len(answer))
		}
		return n.catchUp(ctx, binary.BigEndian.Uint64(answer))
	})
	if err != nil {
		return fmt.Errorf("read barrier: %w", err)
	}
	return nil
}

// retry runs fn until it does something else than to find no leader, or, if it is
// repeatable, than to end with an unknown outcome.
func (n *Node) retry(ctx context.Context, repeatable bool, fn func(context.Context) error) error {
	if err := n.enter(ctx); err != nil {
		return err
	}
	defer n.calls.running.Done()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	open := false // an attempt before may have been carried out
	for {
		changed := n.leaderChanged()
		err := fn(ctx)
		unknown := errors.Is(err, metadata.ErrUnknownOutcome)
		open = open || unknown
		if err == nil || !errors.Is(err, metadata.ErrNotLeader) && !(repeatable && unknown) {
			return err
		}
		if open && !unknown {
			err = fmt.Errorf("%w: then %v", metadata.ErrUnknownOutcome, err) //nolint:errorlint // not ErrNotLeader any more
		}
		timer := time.NewTimer(retryPause)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", err, ctx.Err())
		case <-n.quit:
			timer.Stop()
			if open {
				return err
			}
			return fmt.Errorf("%w: %v", metadata.ErrClosed, err) //nolint:errorlint // one of the two says it
		}
		timer.Stop()
	}
}

// enter counts a call that will be answered. Close refuses new ones and waits for
// those under way, since Raft answers nobody whose proposal it has not looked at
// when it shuts down.
func (n *Node) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.calls.Lock()
	defer n.calls.Unlock()
	if n.calls.closed {
		return metadata.ErrClosed
	}
	n.calls.running.Add(1)
	return nil
}

// leads reports whether Raft believes that this node leads.
func (n *Node) leads() bool { return n.raft.State() == raft.Leader }

// apply puts a command through our own Raft.
func (n *Node) apply(ctx context.Context, data []byte) (fsm.Outcome, error) {
	future := n.raft.Apply(data, left(ctx))
	if err := n.await(ctx, future); err != nil {
		return fsm.Outcome{}, err
	}
	return future.Response().(fsm.Outcome), nil
}

// barrier returns once our image has everything that was committed before; only a
// leader that still leads can do it.
func (n *Node) barrier(ctx context.Context) error {
	return n.await(ctx, n.raft.Barrier(left(ctx)))
}

// left is how long a proposal may wait to be taken by Raft.
func left(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(max(time.Until(deadline), time.Millisecond), patience)
	}
	return patience
}

// await waits for Raft's answer or the context. The error says what is known of the
// outcome.
func (n *Node) await(ctx context.Context, f raft.Future) error {
	answer := make(chan error, 1)
	n.calls.running.Add(1) // the caller is counted, so Close is still waiting
	go func() {
		defer n.calls.running.Done()
		answer <- f.Error()
	}()
	select {
	case err := <-answer:
		return raftError(err)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, ctx.Err())
	case <-n.stopped:
		// Not ErrClosed, which says that nothing was done.
		return fmt.Errorf("%w: the node was closed", metadata.ErrUnknownOutcome)
	}
}

// raftError says whether the command may have been applied.
func raftError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", metadata.ErrNotLeader, err)
	case strings.Contains(err.Error(), "configuration changed since"): // Raft has no name for it
		return fmt.Errorf("%w: %w", ErrConflict, err)
	default:
		return fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, err)
	}
}

// forwardProposal has the leader apply a command.
func (n *Node) forwardProposal(ctx context.Context, data []byte) (fsm.Outcome, error) {
	answer, err := n.callLeader(ctx, callPropose, data)
	if err != nil {
		return fsm.Outcome{}, err
	}
	outcome, err := fsm.DecodeOutcome(answer)
	if err != nil {
		return fsm.Outcome{}, fmt.Errorf("%w: answer of the leader: %w", metadata.ErrUnknownOutcome, err)
	}
	return outcome, n.catchUp(ctx, outcome.Result.Index)
}

// catchUp waits until our own image has an index that the leader's has.
func (n *Node) catchUp(ctx context.Context, index uint64) error {
	if err := n.dispatch.published.wait(ctx, index, n.quit); err != nil {
		return fmt.Errorf("%w: wait for index %d: %v", metadata.ErrUnknownOutcome, index, err) //nolint:errorlint // ErrClosed says that nothing was done
	}
	return nil
}

// callLeader makes a call of the leader. The error is ErrNotLeader if nothing was
// done, and ErrUnknownOutcome if that is not known.
func (n *Node) callLeader(ctx context.Context, name string, body []byte) ([]byte, error) {
	id, ok := n.Leader()
	if !ok || id == n.opts.DirectoryID || n.opts.Link == nil {
		return nil, metadata.ErrNotLeader
	}
	addr, ok := n.addressOf(id)
	if !ok {
		return nil, fmt.Errorf("%w: no address of %s", metadata.ErrNotLeader, id)
	}
	ctx, end := n.enterForwarded(ctx, id)
	defer end()
	answer, err := n.opts.Link.Call(ctx, addr, name, body)
	if err != nil {
		return nil, callError(ctx, err)
	}
	return answer, nil
}

// leaderCall is a call to a leader under way.
type leaderCall struct {
	leader uuid.UUID
	cancel context.CancelCauseFunc
}

// enterForwarded bounds a call to a leader to the time until another one leads, or
// the node closes. end ends it.
func (n *Node) enterForwarded(ctx context.Context, leader uuid.UUID) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(n.closing, func() { cancel(errClosing) })
	c := &leaderCall{leader, cancel}
	n.forwarded.Lock()
	defer n.forwarded.Unlock()
	n.forwarded.calls[c] = struct{}{}
	return ctx, func() {
		stop()
		cancel(nil)
		n.forwarded.Lock()
		defer n.forwarded.Unlock()
		delete(n.forwarded.calls, c)
	}
}

// abandonForwarded ends the calls to leaders other than the present one: they may
// be on a way that leads nowhere.
func (n *Node) abandonForwarded(leader uuid.UUID) {
	n.forwarded.Lock()
	defer n.forwarded.Unlock()
	for c := range n.forwarded.calls {
		if c.leader != leader {
			c.cancel(errLeaderMoved)
		}
	}
}

// errClosing is not ErrClosed, which says that nothing was done.
var errClosing = errors.New("the node is closing")

var errLeaderMoved = errors.New("another node leads now")

// callError says what an error of a call to the leader means.
func callError(ctx context.Context, err error) error {
	var ce *link.CallError
	switch {
	case errors.As(err, &ce):
		switch ce.Code {
		case codeNotLeader, link.CodeUnknownCall:
			return fmt.Errorf("%w: %w", metadata.ErrNotLeader, err)
		case codeConflict:
			return fmt.Errorf("%w: %w", ErrConflict, err)
		case codeInvalid, link.CodeTooLarge:
			return fmt.Errorf("%w: %w", errRefusedCall, err)
		default:
			return fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, err)
		}
	case errors.Is(err, link.ErrUnreachable):
		return fmt.Errorf("%w: %w", metadata.ErrNotLeader, err)
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, context.Cause(ctx))
	default:
		return fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, err)
	}
}

// errRefusedCall says that the leader did not carry out a request, and will not.
var errRefusedCall = errors.New("metadata: the leader refuses the request")

// addressOf finds where a server is reached.
func (n *Node) addressOf(id uuid.UUID) (string, bool) {
	if n.opts.Addresses != nil {
		if addr, ok := n.opts.Addresses(id); ok {
			return addr, true
		}
	}
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.ID == serverID(id) {
			return string(s.Address), true
		}
	}
	return "", false
}

// serveCalls answers the other nodes; nil handlers end it.
func (n *Node) serveCalls() {
	l := n.opts.Link
	l.HandleCall(callPropose, n.answering(n.servePropose))
	l.HandleCall(callBarrier, n.answering(n.serveBarrier))
	l.HandleCall(callServers, n.answering(n.serveServers))
	l.HandleCall(callQuorum, n.answering(n.serveQuorum))
}

func (n *Node) endCalls() {
	for _, name := range []string{callPropose, callBarrier, callServers, callQuorum} {
		n.opts.Link.HandleCall(name, nil)
	}
}

// answering wraps what the leader does for another node: it is counted, refused
// where this node does not lead, and its error gets a code.
func (n *Node) answering(fn func(ctx context.Context, body []byte) ([]byte, error)) func(context.Context, link.Peer, []byte) ([]byte, error) {
	return func(ctx context.Context, _ link.Peer, body []byte) ([]byte, error) {
		if err := n.enter(ctx); err != nil {
			return nil, &link.CallError{Code: codeNotLeader, Message: err.Error()}
		}
		defer n.calls.running.Done()
		if !n.leads() {
			return nil, &link.CallError{Code: codeNotLeader, Message: "this node does not lead the metadata"}
		}
		answer, err := fn(ctx, body)
		switch {
		case err == nil:
			return answer, nil
		case errors.Is(err, metadata.ErrNotLeader):
			return nil, &link.CallError{Code: codeNotLeader, Message: err.Error()}
		case errors.Is(err, errRefusedCall):
			return nil, &link.CallError{Code: codeInvalid, Message: err.Error()}
		case errors.Is(err, ErrConflict):
			return nil, &link.CallError{Code: codeConflict, Message: err.Error()}
		default:
			return nil, &link.CallError{Code: codeUnknownOutcome, Message: err.Error()}
		}
	}
}

// servePropose applies a command of another node. One that this build cannot read
// must not reach the log: it would stop every node like this one.
func (n *Node) servePropose(ctx context.Context, body []byte) ([]byte, error) {
	if _, err := command.Decode(body); err != nil {
		return nil, fmt.Errorf("%w: %w", errRefusedCall, err)
	}
	outcome, err := n.apply(ctx, body)
	if err != nil {
		return nil, err
	}
	return fsm.EncodeOutcome(outcome)
}

func (n *Node) serveBarrier(ctx context.Context, _ []byte) ([]byte, error) {
	if err := n.barrier(ctx); err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, n.Image().Index()), nil
}
