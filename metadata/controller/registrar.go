package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// Proposer is what Register needs of the metadata client.
type Proposer interface {
	Image() *metadata.Image
	Propose(ctx context.Context, cmd command.Command) (command.Result, error)
}

// Register announces a broker's process, unfences it, and elects leaders for the
// partitions that waited for it or were led by its former process. It returns the
// broker epoch. With more brokers the controller does the last two once the broker
// has caught up; on one node there is nothing to wait for.
func Register(ctx context.Context, client Proposer, r *command.RegisterBroker) (epoch int64, err error) {
	res, err := client.Propose(ctx, r)
	if err != nil {
		return 0, fmt.Errorf("register broker %d: %w", r.BrokerID, err)
	}
	if err := SetState(ctx, client, r.BrokerID, res.BrokerEpoch, command.BrokerActive); err != nil {
		return 0, err
	}
	if err := elect(ctx, client, AfterRegistration(client.Image(), r.BrokerID)); err != nil {
		return 0, fmt.Errorf("elect leaders for broker %d: %w", r.BrokerID, err)
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

// elect proposes elections. A partition that changed or went meanwhile is passed
// over: whoever changed it decided on newer knowledge.
func elect(ctx context.Context, client Proposer, commands []*command.ElectLeaders) error {
	for _, cmd := range commands {
		res, err := client.Propose(ctx, cmd)
		if err != nil {
			return err
		}
		for i, it := range res.Items {
			if it.Err != nil && !errors.Is(it.Err, command.ErrFenced) && !errors.Is(it.Err, command.ErrNotFound) {
				return fmt.Errorf("partition %s: %w", cmd.Elections[i].Partition, it.Err)
			}
		}
	}
	return nil
}
