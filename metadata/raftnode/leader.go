package raftnode

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// watchLeader follows the leadership: it keeps the image's ControllerID, formats a
// new cluster and says when the node is ready.
func (n *Node) watchLeader() {
	defer close(n.watched)
	seen := make(chan raft.Observation, 16)
	// Not blocking: a dropped observation is made good by the next, and by asking
	// Raft below.
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	n.raft.RegisterObserver(observer)
	defer n.raft.DeregisterObserver(observer)
	var ready bool
	var retry <-chan time.Time
	for {
		_, id := n.raft.LeaderWithID()
		n.fsm.SetLeader(parseServer(id))
		retry = nil
		if !ready && id != "" {
			switch err := n.prepare(id); {
			case err == nil:
				ready = true
				close(n.ready)
			case !errors.Is(err, metadata.ErrNotLeader) && !errors.Is(err, metadata.ErrClosed):
				n.opts.Logger.Error("metadata node is not ready", "error", err)
				fallthrough
			default:
				retry = time.After(n.opts.ElectionTimeout)
			}
		}
		select {
		case <-n.quit:
			return
		case <-n.leader:
		case <-seen:
		case <-retry:
		}
	}
}

func parseServer(id raft.ServerID) uuid.UUID {
	u, err := uuid.Parse(string(id))
	if err != nil {
		return uuid.Nil // "" while nobody leads
	}
	return u
}

// prepare waits until the image has all of the log, and formats a new cluster.
func (n *Node) prepare(leader raft.ServerID) error {
	if leader != raft.ServerID(n.opts.DirectoryID.String()) {
		return nil
	}
	// Both calls end at shutdown, so no context is needed.
	ctx := context.Background()
	if err := n.ReadBarrier(ctx); err != nil {
		return err
	}
	if n.opts.ClusterID == "" || n.Image().ClusterID() != "" {
		return nil
	}
	_, err := n.Propose(ctx, &command.FormatCluster{ClusterID: n.opts.ClusterID, Features: n.opts.Features})
	return err
}
