package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// producerIDTimeout bounds the wait for a new block of ids.
const producerIDTimeout = 10 * time.Second

// producerIDs hands out ids of the block that the metadata log gave to this
// broker. A block is used by one process only, so a restart wastes its rest.
type producerIDs struct {
	mu   sync.Mutex
	next int64
	end  int64 // exclusive
}

// take returns an id, asking for a block where the last one is used up.
func (p *producerIDs) take(ctx context.Context, s *Server) (int64, error) {
	p.mu.Lock()
	if p.next < p.end {
		defer p.mu.Unlock()
		p.next++
		return p.next - 1, nil
	}
	p.mu.Unlock()
	self := s.Meta.Image().Broker(s.nodeID())
	if self == nil {
		return 0, kerr.CoordinatorLoadInProgress
	}
	res, err := s.Meta.Propose(ctx, &command.AllocateProducerIDs{
		Request: command.Request{RequestID: uuid.New()}, BrokerID: s.nodeID(), BrokerEpoch: self.Epoch})
	if err != nil {
		return 0, fmt.Errorf("%w: producer id block: %w", kerr.CoordinatorNotAvailable, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Two callers may have asked at once: the ids of the older block are lost.
	p.next, p.end = res.ProducerIDs.First+1, res.ProducerIDs.First+int64(res.ProducerIDs.Count)
	return res.ProducerIDs.First, nil
}

// initProducerID gives an idempotent producer its id (KIP-98, KIP-360).
// Transactions are not served yet, and refused so that no client retries.
func (s *Server) initProducerID(r *wire.Request, req *kmsg.InitProducerIDRequest) {
	fail := func(err error) {
		resp := kmsg.NewPtrInitProducerIDResponse()
		resp.ProducerID, resp.ProducerEpoch, resp.ErrorCode = -1, -1, codeOf(err)
		r.Reply(resp)
	}
	switch {
	case req.TransactionalID != nil && *req.TransactionalID == "":
		fail(kerr.InvalidRequest)
		return
	case req.TransactionalID != nil:
		fail(kerr.TransactionalIDAuthorizationFailed)
		return
	case r.Version >= 3 && (req.ProducerID == -1) != (req.ProducerEpoch == -1):
		fail(kerr.InvalidRequest)
		return
	}
	s.slow(producerIDTimeout, func(ctx context.Context) {
		id, err := s.ids.take(ctx, s)
		if err != nil {
			level := slog.LevelWarn
			if errors.Is(err, metadata.ErrNotLeader) || errors.Is(err, metadata.ErrUnknownOutcome) || errors.Is(err, context.DeadlineExceeded) {
				level = slog.LevelDebug // the heartbeats say so once, and every producer asks again
			}
			s.Logger.Log(ctx, level, "no producer id", "err", err)
			fail(err)
			return
		}
		resp := kmsg.NewPtrInitProducerIDResponse()
		resp.ProducerID, resp.ProducerEpoch = id, 0
		r.Reply(resp)
	})
}
