// Command firn-bench takes the figures of docs/performance.md on this machine:
//
//	firn-bench -firn bin/firn -probe bin/firn-probe -minio .cache/bin/minio
//	firn-bench -only produce-cpu,fetch-cpu -runs 3
//	firn-bench -quick -json figures.json
//
// It prints each figure as it comes and, with -json, writes all of them to a
// file. A missed target is a figure, not a failure: the exit status is 1 only if
// a row could not be run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/firnlog/firn/integration/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "firn-bench:", err)
		os.Exit(1)
	}
}

// quickScale and quickRuns are what -quick takes.
const (
	quickScale = 0.1
	quickRuns  = 3
)

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	fs := flag.NewFlagSet("firn-bench", flag.ContinueOnError)
	fs.SetOutput(progress)
	env := bench.Env{Log: progress}
	fs.StringVar(&env.Firn, "firn", "bin/firn", "the broker's `program`")
	fs.StringVar(&env.Probe, "probe", "bin/firn-probe", "the raw probes' `program`")
	fs.StringVar(&env.MinIO, "minio", ".cache/bin/minio", "the object store's `program`")
	fs.StringVar(&env.Kafka, "kafka", "integration/clients/kafka-peer.sh", "`script` that runs an Apache Kafka, for the row peer")
	fs.StringVar(&env.Dir, "dir", os.TempDir(), "existing `directory` for the data, on the disk to be measured")
	fs.Float64Var(&env.Scale, "scale", 1, "`factor` on the sizes of the table")
	fs.IntVar(&env.Runs, "runs", 5, "runs of each figure")
	quick := fs.Bool("quick", false, fmt.Sprintf("-scale %g -runs %d", quickScale, quickRuns))
	only := fs.String("only", "", "`rows` to run, separated by commas; empty is all: "+strings.Join(names(), ", "))
	jsonFile := fs.String("json", "", "`file` to write all figures to")
	if err := fs.Parse(args); err != nil {
		return err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if *quick && !given["scale"] {
		env.Scale = quickScale
	}
	if *quick && !given["runs"] {
		env.Runs = quickRuns
	}
	cases, err := choose(*only)
	switch {
	case err != nil:
		return err
	case fs.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case env.Scale <= 0 || env.Runs < 1:
		return errors.New("-scale must be above 0 and -runs at least 1")
	}
	if err := bench.RaiseFiles(); err != nil {
		return err
	}
	report := bench.Report{Machine: bench.ThisMachine(), Commit: version(ctx, env.Firn), Scale: env.Scale, Runs: env.Runs}
	fmt.Fprintf(out, "%s\n%s; scale %g, %d runs, medians\n", report.Machine, report.Commit, env.Scale, env.Runs)
	var failed error
	for _, c := range cases {
		fmt.Fprintf(progress, "%s: %s\n", c.Name, c.What)
		figures, err := c.Run(ctx, &env)
		for i := range figures {
			if err := figures[i].WriteText(out); err != nil {
				return err
			}
		}
		report.Figures = append(report.Figures, figures...)
		if err != nil {
			fmt.Fprintln(progress, err)
			failed = errors.Join(failed, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if *jsonFile != "" {
		file, err := os.Create(*jsonFile)
		if err != nil {
			return err
		}
		failed = errors.Join(failed, report.WriteJSON(file), file.Close())
	}
	return failed
}

func names() []string {
	var names []string
	for _, c := range bench.Cases() {
		names = append(names, c.Name)
	}
	return names
}

// choose returns the cases that are named.
func choose(only string) ([]bench.Case, error) {
	all := bench.Cases()
	if only == "" {
		return all, nil
	}
	var chosen []bench.Case
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(all, func(c bench.Case) bool { return c.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only: no row %q; there are %s", name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// version is what the broker says it is.
func version(ctx context.Context, firn string) string {
	out, err := exec.CommandContext(ctx, firn, "version").Output()
	if err != nil {
		return "firn of unknown version"
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return first
}
