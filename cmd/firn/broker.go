package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/firnlog/firn/broker/config"
)

// runBroker is the one place where the command line meets package broker.
func runBroker(context.Context, config.Config, *slog.Logger) error {
	return errors.New("this program was built without the broker")
}
