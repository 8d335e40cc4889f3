// Command firn-probe runs the raw probes that stand beside Firn's figures, and
// the load that both get. Servers print the address they listen on and their
// process id, and run until they are interrupted:
//
//	firn-probe serve-produce --dir /data/probe --sync
//	firn-probe produce --addr 127.0.0.1:9092 --topic t --create --bytes 4e9 --pid 1234
//	firn-probe fetch --addr 127.0.0.1:9092 --topic t --pid 1234
//	firn-probe serve-file --file /data/probe/t-0.log
//	firn-probe drain --addr 127.0.0.1:7001 --connections 4 --pid 1235
//	firn-probe get --endpoint 127.0.0.1:9000 --bucket firn --parallel 16
//
// Results go to standard output, as text or with --json as one line of JSON.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/integration/probe"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRoot().ExecuteContext(ctx)
	stop()
	if err != nil {
		os.Exit(1) // cobra has printed it
	}
}

// newRoot returns the whole command.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:          "firn-probe",
		Short:        "Raw probes and raw Kafka load for Firn's figures",
		SilenceUsage: true,
	}
	out := &output{}
	root.PersistentFlags().BoolVar(&out.json, "json", false, "write one line of JSON")
	root.AddCommand(serveProduce(out), serveFile(out), drain(out), get(out), produce(out), fetch(out))
	return root
}

// output writes results.
type output struct{ json bool }

func (o *output) report(w io.Writer, r probe.Report) error {
	if o.json {
		return r.WriteJSON(w)
	}
	return r.WriteText(w)
}

// serving tells whoever started a server where it is.
func (o *output) serving(w io.Writer, addr string) error {
	format := "serving on %s, process %d\n"
	if o.json {
		format = `{"addr":%q,"pid":%d}` + "\n"
	}
	_, err := fmt.Fprintf(w, format, addr, os.Getpid())
	return err
}

// untilDone waits for the signal that ends a server.
func untilDone(ctx context.Context, closeServer func() error) error {
	<-ctx.Done()
	return closeServer()
}
