package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Every mistake in the use of a command fails, names itself and says what would
// be right.
func TestMistakesInUse(t *testing.T) {
	c := startCluster(t, "orders")
	for _, mistake := range []struct{ line, want string }{
		{"topc", "\"topc\" is no command of firn; did you mean topic?; `firn --help` lists them"},
		{"topic lst", "\"lst\" is no command of firn topic; did you mean list?; `firn topic --help` lists them"},
		{"completion tcsh", "\"tcsh\" is no command of firn completion; `firn completion --help` lists them"},
		{"consume", "firn consume: got 0 arguments, want `firn consume TOPIC [flags]`"},
		{"topic list orders", "firn topic list: got 1 argument (orders), want `firn topic list [flags]`"},
		{"serve now", "firn serve: got 1 argument (now), want `firn serve [flags]`"},
		{"consume orders -p x", "--partition: got \"x\", want whole numbers, separated by commas"},
		{"consume orders -n many", "--count: got \"many\", want a whole number"},
		{"consume orders -n -1", "--count: got -1, want at least 1, or 0 for no limit"},
		{"consume orders --group=", "--group is empty: name a group, or leave the flag out to read without one"},
		{"consume orders --form earliest", "unknown flag --form; did you mean --from?; `firn consume --help` lists them"},
		{"consume orders -q", "unknown flag -q; `firn consume --help` lists them"},
		{"consume orders --from", "--from needs a value: where to begin; by default latest, with a group where it was"},
		{"serve --num.partitions=3", "unknown flag --num.partitions: settings are given as --set num.partitions=VALUE"},
		{"topic list --timeout soon", "--timeout: got \"soon\", want a duration such as 30s or 5m"},
		{"topic list --timeout -1s", "--timeout: got -1s, want a duration above 0, such as 30s"},
		{"topic list --bootstrap-server=", "--bootstrap-server is empty; write HOST:PORT, such as 127.0.0.1:9092"},
		{"topic alter orders -p -3", "--partitions: got -3, want more than the topic has"},
		{"group list --state Stabel", "--state: got \"Stabel\", want some of Stable, Empty, PreparingRebalance, CompletingRebalance, Assigning, Reconciling, Dead, NotReady"},
		{"bench produce orders --rate -1", "--rate: at least 0"},
		{"cluster features --upgrade firn.version", "--upgrade firn.version: write NAME=LEVEL, such as firn.version=2; `firn cluster features` lists them"},
		{"produce orders -p 9", "topic orders has no partition 9: it has 3, from 0 on"},
	} {
		require.Equal(t, "firn: "+mistake.want, c.fails(strings.Fields(mistake.line)...), mistake.line)
	}
	require.Equal(t, "firn "+softwareVersion()+"\n", c.ok("", "--version"))
	require.Contains(t, c.ok("", "topic"), "Change a topic's settings")
}

// A person who ends produce at the terminal does not have to press enter first,
// and what was read before is written.
func TestProduceEndsAtAnInterruptWhileItWaitsForInput(t *testing.T) {
	c := startCluster(t, "orders")
	in, typed := io.Pipe()
	defer typed.Close()
	var out, errOut bytes.Buffer
	ctx, interrupt := context.WithTimeout(t.Context(), time.Minute)
	defer interrupt()
	a := &app{in: in, out: &out, errOut: &errOut, env: []string{"FIRN_BOOTSTRAP_SERVER=" + c.bootstrap}, now: func() time.Time { return testNow }}
	ended := make(chan int)
	go func() { ended <- run(ctx, a, []string{"produce", "orders", "-p", "0"}) }()
	_, err := io.WriteString(typed, "one\n")
	require.NoError(t, err)
	// The next write is taken only when the line before was handled.
	_, err = io.WriteString(typed, "half a li")
	require.NoError(t, err)
	interrupt()
	require.Zero(t, <-ended, errOut.String())
	require.Equal(t, "wrote 1 record, 3 B, to orders\n", errOut.String())
	require.Equal(t, "one\n", c.ok("", "consume", "orders", "--from", "earliest", "-e"))
}
