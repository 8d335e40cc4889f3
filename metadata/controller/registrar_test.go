package controller

import (
	"context"
	"fmt"

	"github.com/firnlog/firn/metadata/command"
)

// Register announces a broker's process and unfences it at once: for a node that is
// alone, with nobody to catch up with. The state machine elects leaders for the
// partitions that waited for the broker or were led by its former process, under new
// leader epochs: a new process never writes under the epoch of the old one, which
// may have acknowledged what power loss took. It returns the broker epoch.
func Register(ctx context.Context, client Proposer, r *command.RegisterBroker) (epoch int64, err error) {
	res, err := client.Propose(ctx, r)
	if err != nil {
		return 0, fmt.Errorf("register broker %d: %w", r.BrokerID, err)
	}
	if err := SetState(ctx, client, r.BrokerID, res.BrokerEpoch, command.BrokerActive); err != nil {
		return 0, err
	}
	return res.BrokerEpoch, nil
}

// SetState fences, unfences or announces the shutdown of a broker.
func SetState(ctx context.Context, client Proposer, broker int32, epoch int64, state command.BrokerState) error {
	if _, err := client.Propose(ctx, &command.SetBrokerState{BrokerID: broker, BrokerEpoch: epoch, State: state}); err != nil {
		return fmt.Errorf("set state of broker %d: %w", broker, err)
	}
	return nil
}
