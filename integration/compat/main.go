// Compat has the same conversation, byte for byte, with an Apache Kafka broker
// and with Firn, and compares their answers field by field. It sends every served
// API at every version, and the mistakes that clients make.
//
//	go run ./integration/compat [-words] KAFKA FIRN
//
// Both are HOST:PORT of a PLAINTEXT listener, both may have topics already. Ids,
// times and ports are named before they are compared. A difference is printed
// unless a rule of understood.go expects it; a rule that nothing uses any more is
// printed too. The status is 1 if anything was.
//
// It runs beside the clients' checks: make test-clients.
package main

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
)

func main() {
	words := flag.Bool("words", false, "show error messages that differ in their words")
	only := flag.String("only", "", "run the chapters whose name contains this")
	transcript := flag.String("transcript", "", "write every answer of both brokers to this file")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: compat [flags] KAFKA-HOST:PORT FIRN-HOST:PORT")
		os.Exit(2)
	}
	runs, err := converse(flag.Args(), *only)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if *transcript != "" {
		if err := writeTranscript(*transcript, runs); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if !report(os.Stdout, runs, *words, *only == "") {
		os.Exit(1)
	}
}

// converse runs the chapters against all brokers at the same time.
func converse(addrs []string, only string) ([]*script, error) {
	suffix := fmt.Sprintf("%06x", rand.Uint32()&0xffffff)
	runs := make([]*script, len(addrs))
	failed := make([]error, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() {
			s, err := newScript(addr, suffix)
			if err != nil {
				failed[i] = err
				return
			}
			runs[i] = s
			for _, c := range chapters {
				if !strings.Contains(c.name, only) {
					continue
				}
				s.run(c)
			}
		})
	}
	wg.Wait()
	for _, err := range failed {
		if err != nil {
			return nil, err
		}
	}
	return runs, nil
}

// report prints what differs and is not understood, and tells whether there was
// nothing. whole says that all chapters ran, so that unused rules are stale.
func report(w io.Writer, runs []*script, words, whole bool) bool {
	diffs := compare(runs[0].steps, runs[1].steps)
	open := explain(diffs, rules)
	for _, d := range open {
		fmt.Fprintf(w, "%s\n    %s\n    kafka: %s\n    firn:  %s\n", d.step, d.field, d.kafka, d.ours)
	}
	wording := 0
	for _, d := range diffs {
		if !d.wording {
			continue
		}
		wording++
		if words {
			fmt.Fprintf(w, "%s (words)\n    %s\n    kafka: %s\n    firn:  %s\n", d.step, d.field, d.kafka, d.ours)
		}
	}
	stale := 0
	for _, r := range rules {
		if whole && r.uses == 0 {
			stale++
			fmt.Fprintf(w, "no difference any more: %s\n", r.reason)
		}
	}
	fmt.Fprintf(w, "%d requests, %d fields differ: %d understood, %d in words, %d not understood; %d stale rules\n",
		len(runs[0].steps), len(diffs), len(diffs)-len(open)-wording, wording, len(open), stale)
	return len(open) == 0 && stale == 0
}

func writeTranscript(path string, runs []*script) error {
	var b strings.Builder
	for i, name := range []string{"kafka", "firn"} {
		for _, s := range runs[i].steps {
			fmt.Fprintf(&b, "%s %s: %s\n", name, s.name, outcome(s))
			for _, f := range sortedFields(s.answer) {
				fmt.Fprintf(&b, "    %s = %s\n", f, s.answer[f])
			}
		}
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}
