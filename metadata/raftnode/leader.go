package raftnode

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// leadership is one time during which this node leads.
type leadership struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// watchLeader follows the leadership: it keeps the image's ControllerID, starts and
// ends the time of our own leadership, and says when the node is ready. It never
// waits for anything else, since Raft waits for it.
func (n *Node) watchLeader() {
	defer close(n.watched)
	seen := make(chan raft.Observation, 64)
	// Not blocking: a dropped observation is made good by asking Raft below, after
	// those that are in the channel.
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation:
			return true
		default:
			return false
		}
	})
	n.raft.RegisterObserver(observer)
	defer n.raft.DeregisterObserver(observer)
	prepared := n.prepareOnce()
	defer func() { <-prepared }()
	silent := map[raft.ServerID]struct{}{}
	var last raft.ServerID
	var lead *leadership
	for {
		addr, id := n.raft.LeaderWithID()
		if id != last {
			n.opts.Logger.Info("metadata leader", "addr", string(addr), "directory", string(id), "before", string(last))
			last = id
			n.transport.reset()
			clear(silent)
			if id != "" {
				n.abandonForwarded(parseServer(id))
			}
		}
		n.fsm.SetLeader(parseServer(id))
		n.tellLeader()
		select {
		case <-n.quit:
			if lead != nil {
				lead.cancel()
				<-lead.done
			}
			return
		case leads := <-n.leader:
			if lead != nil {
				lead.cancel()
			}
			if leads {
				lead = n.startLeading(lead)
			}
		case o := <-seen:
			n.noteHeartbeat(o, silent)
		}
	}
}

// leaderChanged returns a channel that is closed when another node leads, or none.
func (n *Node) leaderChanged() <-chan struct{} {
	n.changed.Lock()
	defer n.changed.Unlock()
	return n.changed.ch
}

func (n *Node) tellLeader() {
	n.changed.Lock()
	defer n.changed.Unlock()
	close(n.changed.ch)
	n.changed.ch = make(chan struct{})
}

// noteHeartbeat logs when a follower falls silent, and when it is back.
func (n *Node) noteHeartbeat(o raft.Observation, silent map[raft.ServerID]struct{}) {
	switch o := o.Data.(type) {
	case raft.FailedHeartbeatObservation:
		if _, ok := silent[o.PeerID]; !ok {
			silent[o.PeerID] = struct{}{}
			n.opts.Logger.Warn("metadata server does not answer", "addr", n.addrOf(o.PeerID), "directory", string(o.PeerID), "last contact", o.LastContact)
		}
	case raft.ResumedHeartbeatObservation:
		delete(silent, o.PeerID)
		n.opts.Logger.Info("metadata server answers again", "addr", n.addrOf(o.PeerID), "directory", string(o.PeerID))
	}
}

// addrOf is the address of a server, for people, who do not know directories by heart;
// "" if it is none. It does not wait: Raft has the list at hand.
func (n *Node) addrOf(id raft.ServerID) string {
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.ID == id {
			return string(s.Address)
		}
	}
	return ""
}

// startLeading begins a time of leadership, once the one before has ended.
func (n *Node) startLeading(before *leadership) *leadership {
	ctx, cancel := context.WithCancel(context.Background())
	l := &leadership{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		defer cancel()
		if before != nil {
			<-before.done
		}
		if !n.persist(ctx, n.takeOver) {
			return
		}
		if n.opts.OnLead != nil {
			n.opts.OnLead(ctx)
		}
	}()
	return l
}

// persist repeats fn until it succeeds, and reports whether it did before ctx ended.
func (n *Node) persist(ctx context.Context, fn func(context.Context) error) bool {
	for {
		err := fn(ctx)
		switch {
		case err == nil:
			return ctx.Err() == nil
		case ctx.Err() != nil, errors.Is(err, metadata.ErrClosed):
			return false
		case !errors.Is(err, metadata.ErrNotLeader):
			n.opts.Logger.Warn("metadata node is not ready", "error", err)
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return false
		}
	}
}

// takeOver gets all of the log into the image of a new leader, and formats a new
// cluster.
func (n *Node) takeOver(ctx context.Context) error {
	term := n.raft.CurrentTerm()
	if err := n.ReadBarrier(ctx); err != nil {
		return err
	}
	if n.raft.CurrentTerm() != term {
		return metadata.ErrNotLeader // or again, without a barrier
	}
	n.reign.Store(term)
	if n.opts.ClusterID == "" || n.Image().ClusterID() != "" {
		return nil
	}
	_, err := n.Propose(ctx, &command.FormatCluster{ClusterID: n.opts.ClusterID, Features: n.opts.Features, Configs: n.opts.Configs})
	return err
}

// prepareOnce says when the node is ready. The channel is closed when it is, or when
// the node closes.
func (n *Node) prepareOnce() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if n.persist(n.closing, n.prepare) {
			close(n.ready)
		}
	}()
	return done
}

// prepare returns once the image has what was committed, and the cluster is
// formatted.
func (n *Node) prepare(ctx context.Context) error {
	if err := n.ReadBarrier(ctx); err != nil {
		return err
	}
	for n.opts.ClusterID != "" {
		img := n.Image()
		if img.ClusterID() != "" {
			break
		}
		if err := n.catchUp(ctx, img.Index()+1); err != nil { // whoever leads is about to
			return err
		}
	}
	return nil
}
