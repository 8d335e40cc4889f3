package main

import (
	"context"
	"log/slog"

	"github.com/firnlog/firn/broker"
	"github.com/firnlog/firn/broker/config"
)

// runBroker is where the command line meets package broker.
func runBroker(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	b, err := broker.New(cfg, log)
	if err != nil {
		return err
	}
	return b.Run(ctx)
}

// checkBroker says why package broker would not run a configuration.
func checkBroker(cfg config.Config) error { return broker.Check(cfg) }
