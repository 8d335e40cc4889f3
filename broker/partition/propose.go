package partition

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

const (
	// proposeTimeout bounds one attempt to change ISRs.
	proposeTimeout = 10 * time.Second
	// maxProposals is how many partitions one AlterPartition command changes.
	maxProposals = 2000
)

// proposer sends the ISR changes of all partitions to the metadata log: one
// command at a time, with all that was asked for since the last one. When a
// broker is lost, a thousand leaders here ask at the same moment.
type proposer struct {
	set  *Set
	wake chan struct{} // capacity 1

	mu sync.Mutex
	// queue holds one change per partition at most: the machine makes no second one
	// before the first is answered, unless its epoch has ended.
	queue map[*Partition]*replica.ISRProposal
}

func (w *proposer) init(s *Set) {
	w.set, w.wake, w.queue = s, make(chan struct{}, 1), make(map[*Partition]*replica.ISRProposal)
}

// add queues a change. It never blocks.
func (w *proposer) add(p *Partition, pr *replica.ISRProposal) {
	w.mu.Lock()
	w.queue[p] = pr
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take empties the queue, as far as one command goes.
func (w *proposer) take() (parts []*Partition, changes []*replica.ISRProposal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, pr := range w.queue {
		if len(parts) == maxProposals {
			break
		}
		delete(w.queue, p)
		parts, changes = append(parts, p), append(changes, pr)
	}
	return parts, changes
}

// run is the owner of the queue, until the set stops.
func (w *proposer) run() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		select {
		case <-w.set.stop:
			return
		case <-w.wake:
		}
		for {
			parts, changes := w.take()
			if len(parts) == 0 {
				break
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				w.send(ctx, parts, changes)
			}()
			select {
			case <-done:
			case <-w.set.stop:
				cancel()
				<-done
				return
			}
		}
	}
}

// send proposes the changes as one command and tells each partition how it went.
func (w *proposer) send(ctx context.Context, parts []*Partition, changes []*replica.ISRProposal) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	s := w.set
	self := s.img.Load().Broker(s.opts.NodeID)
	if self == nil {
		for i, p := range parts {
			p.proposalFailed(changes[i], true)
		}
		return
	}
	cmd := &command.AlterPartition{BrokerID: s.opts.NodeID, BrokerEpoch: self.Epoch}
	for i, p := range parts {
		pr := changes[i]
		ch := command.ISRChange{Partition: p.tp, LeaderEpoch: pr.LeaderEpoch, PartitionEpoch: pr.PartitionEpoch, Cold: pr.Cold}
		for _, m := range pr.Members {
			ch.ISR = append(ch.ISR, command.ISRMember{BrokerID: m.ID, BrokerEpoch: m.BrokerEpoch})
		}
		cmd.Partitions = append(cmd.Partitions, ch)
	}
	res, err := s.opts.Meta.Propose(ctx, cmd)
	for i, p := range parts {
		failed := err
		if err == nil && res.Items[i].Err != nil {
			failed = res.Items[i].Err
		}
		if failed == nil {
			continue
		}
		s.opts.Logger.Warn("change of the in-sync replicas failed", "topic", p.topic, "partition", p.tp.Partition,
			"wanted", changes[i].IDs(), "cold", changes[i].Cold, "err", failed)
		p.proposalFailed(changes[i], refused(failed))
	}
}

// refused says that a proposal did not and will not come about. A stale epoch
// says that the metadata went on meanwhile, perhaps by this very proposal: the
// next image tells.
func refused(err error) bool {
	var refusal *command.Error
	if errors.As(err, &refusal) {
		return !errors.Is(err, command.ErrFenced)
	}
	if errors.Is(err, metadata.ErrUnknownOutcome) {
		return false
	}
	return errors.Is(err, metadata.ErrNotLeader) || errors.Is(err, metadata.ErrClosed)
}

// eligible tells of brokers whether they may be in an ISR, by the image of the
// last Apply.
func (s *Set) eligible() func(id int32) bool {
	img := s.img.Load()
	return func(id int32) bool { return img.Broker(id).Eligible() }
}
