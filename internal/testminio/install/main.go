// Command install builds the MinIO server that tests run against into
// .cache/bin, unless it is there.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/firnlog/firn/internal/testminio"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	path, err := testminio.Install(ctx, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, path)
}
