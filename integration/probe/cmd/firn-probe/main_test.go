package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/firnlog/firn/integration/probe"
)

// run runs the command and returns what it reports as JSON.
func run(t *testing.T, args ...string) probe.Report {
	cmd := newRoot()
	in, out := io.Pipe()
	cmd.SetOut(out)
	cmd.SetArgs(append(args, "--json"))
	go func() { out.CloseWithError(cmd.ExecuteContext(t.Context())) }()
	line, err := bufio.NewReader(in).ReadBytes('\n')
	require.NoError(t, err)
	var r probe.Report
	require.NoError(t, json.Unmarshal(line, &r))
	return r
}

// serve runs a serving command until the test ends and returns its address.
func serve(t *testing.T, args ...string) string {
	ctx, cancel := context.WithCancel(t.Context())
	cmd := newRoot()
	in, out := io.Pipe()
	cmd.SetOut(out)
	cmd.SetArgs(append(args, "--json"))
	done := make(chan error, 1)
	go func() {
		err := cmd.ExecuteContext(ctx)
		out.CloseWithError(err)
		done <- err
	}()
	line, err := bufio.NewReader(in).ReadBytes('\n')
	require.NoError(t, err)
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	var at struct {
		Addr string
		Pid  int
	}
	require.NoError(t, json.Unmarshal(line, &at))
	require.Equal(t, os.Getpid(), at.Pid)
	return at.Addr
}

func TestProduceCommand(t *testing.T) {
	for _, sync := range []string{"--sync=false", "--sync=true"} {
		addr := serve(t, "serve-produce", "--dir", t.TempDir(), sync)
		r := run(t, "produce", "--addr", addr, "--bytes", "1MiB", "--warmup", "64KiB", "--acks", "1")
		require.GreaterOrEqual(t, r.Bytes, int64(1<<20))
		require.NotNil(t, r.Latency)
		require.Nil(t, r.ServerCPU)
	}
}

func TestBrokerCommands(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	defer cluster.Close()
	addr := cluster.ListenAddrs()[0]
	sent := run(t, "produce", "--addr", addr, "--create", "--config", "retention.ms=-1", "--version", "13", "--bytes", "1MB", "--batches", "12")
	for _, version := range []string{"12", "13"} {
		got := run(t, "fetch", "--addr", addr, "--version", version, "--verify")
		require.Equal(t, sent.Bytes, got.Bytes)
	}
}

func TestSendfileCommands(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, make([]byte, 1000), 0o644))
	addr := serve(t, "serve-file", "--file", path)
	r := run(t, "drain", "--addr", addr, "--connections", "2", "--passes", "3")
	require.EqualValues(t, 6000, r.Bytes)
	require.EqualValues(t, 6, r.Operations)
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1000": 1000, "4e9": 4e9, "16KiB": 16384, "1.5 MiB": 3 << 19, "2GB": 2e9, "7B": 7, "3kB": 3000, "1GiB": 1 << 30, "5MB": 5e6,
	} {
		var s sizeFlag
		require.NoError(t, s.Set(text), text)
		require.EqualValues(t, want, s, text)
	}
	for _, text := range []string{"", "-1", "x", "KiB", "1TB", "NaN", "1e30", "Inf"} {
		var s sizeFlag
		require.Error(t, s.Set(text), text)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"produce", "--bytes", "many"}, "is no size"},
		{[]string{"produce"}, "neither bytes nor a duration"},
		{[]string{"produce", "--codec", "brotli"}, "brotli"},
		{[]string{"produce", "--create", "--config", "x"}, "name=value"},
		{[]string{"produce", "--version", "13", "--topic-id", "x"}, "topic id"},
		{[]string{"serve-produce"}, "dir"},
		{[]string{"serve-file", "--file", "/does/not/exist"}, "no such file"},
		{[]string{"fetch", "--max-bytes", "3GiB"}, "at most"},
	} {
		cmd := newRoot()
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		cmd.SetArgs(c.args)
		require.ErrorContains(t, cmd.ExecuteContext(t.Context()), c.want, "%v", c.args)
	}
}
