// Command compat has the same conversation, byte for byte, with an Apache Kafka broker
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
// What differs is asked once more, with new topics and groups, and counts if it
// differs again: on a busy machine a Kafka tells of partitions before it serves
// them.
//
// It runs beside the clients' checks: make test-clients.
package main

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
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
	runs, err := converse(flag.Args(), func(c chapter) bool { return strings.Contains(c.name, *only) })
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
	diffs := compare(runs[0].steps, runs[1].steps)
	open := explain(diffs, rules)
	if len(open) > 0 {
		again, err := converse(flag.Args(), func(c chapter) bool {
			return slices.ContainsFunc(open, func(d difference) bool { return strings.HasPrefix(d.step, c.name+"/") })
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		open = both(open, compare(again[0].steps, again[1].steps))
	}
	if !report(os.Stdout, len(runs[0].steps), diffs, open, *words, *only == "") {
		os.Exit(1)
	}
}

// both returns the differences of the first run that the second has too, in the
// same field if perhaps with other values.
func both(first, second []difference) []difference {
	type place struct{ step, field string }
	seen := make(map[place]bool, len(second))
	for _, d := range second {
		seen[place{d.step, d.field}] = true
	}
	var out []difference
	for _, d := range first {
		if seen[place{d.step, d.field}] {
			out = append(out, d)
		}
	}
	return out
}

// converse runs the wanted chapters against all brokers at the same time.
func converse(addrs []string, wanted func(chapter) bool) ([]*script, error) {
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
			if failed[i] = s.warmUp(); failed[i] != nil {
				return
			}
			for _, c := range chapters {
				if wanted(c) {
					s.run(c)
				}
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
func report(w io.Writer, requests int, diffs, open []difference, words, whole bool) bool {
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
	fmt.Fprintf(w, "%d requests, %d fields differ: %d understood or passing, %d in words, %d not understood; %d stale rules\n",
		requests, len(diffs), len(diffs)-len(open)-wording, wording, len(open), stale)
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
