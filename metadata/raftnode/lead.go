package raftnode

import (
	"context"
	"fmt"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// AsLeader is the node as its own leader-only tasks see it: what they propose is
// never forwarded. A decision made as a leader, by one who was deposed without
// knowing it yet, must not be carried out by the next leader, who may have decided
// otherwise.
type AsLeader struct{ n *Node }

// AsLeader returns the node as its leader-only tasks see it.
func (n *Node) AsLeader() AsLeader { return AsLeader{n} }

// Image is the newest image that the node has.
func (l AsLeader) Image() *metadata.Image { return l.n.Image() }

// Propose commits a command if this node leads; else the error is ErrNotLeader at
// once. Other errors are those of Node.Propose.
func (l AsLeader) Propose(ctx context.Context, cmd command.Command) (command.Result, error) {
	data, err := l.n.encode(cmd)
	if err != nil {
		return command.Result{}, err
	}
	if err := l.n.enter(ctx); err != nil {
		return command.Result{}, err
	}
	defer l.n.calls.running.Done()
	// One who was deposed, and leads again before its tasks were told, is another.
	if !l.n.leads() || l.n.raft.CurrentTerm() != l.n.reign.Load() {
		return command.Result{}, fmt.Errorf("propose %s: %w", cmd.Kind(), metadata.ErrNotLeader)
	}
	outcome, err := l.n.apply(ctx, data)
	if err != nil {
		return command.Result{}, fmt.Errorf("propose %s: %w", cmd.Kind(), err)
	}
	return outcome.Result, outcome.Err
}
