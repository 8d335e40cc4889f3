// Command firn is the broker and its command line. It is a thin layer: nodes
// are started through package broker, everything else speaks the Kafka protocol
// (franz-go) or the admin HTTP endpoints to a running one.
//
// Results go to standard output in the form that -o asks for; notes, progress
// and errors go to standard error. Commands stop at an interrupt, and exit with
// 1 on an error.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/firnlog/firn/broker"
)

func main() {
	broker.Version = softwareVersion()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second interrupt ends the process at once.
	context.AfterFunc(ctx, stop)
	code := run(ctx, &app{
		in: os.Stdin, out: os.Stdout, errOut: os.Stderr,
		outIsTerminal: isTerminal(os.Stdout), errIsTerminal: isTerminal(os.Stderr), inIsTerminal: isTerminal(os.Stdin),
		env: os.Environ(), now: time.Now, runBroker: runBroker,
	}, os.Args[1:])
	stop()
	os.Exit(code)
}
