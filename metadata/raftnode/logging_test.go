package raftnode

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
)

// What every restart of a node brings with it is no warning, and no error: an orderly
// restart of the leader used to leave "peer has newer term" as one.
func TestLevelsOfRaftsLines(t *testing.T) {
	var out bytes.Buffer
	l := newRaftLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for _, c := range []struct {
		say  func(string, ...any)
		text string
		want string
	}{
		{l.Error, "peer has newer term, stopping replication", "DEBUG"},
		{l.Warn, "rejecting pre-vote request since we have a leader", "DEBUG"},
		{l.Warn, "appendEntries rejected, sending older logs", "DEBUG"},
		{l.Warn, "failed to get previous log", "DEBUG"},
		{l.Error, "failed to heartbeat to", "DEBUG"},
		{l.Info, "entering follower state", "DEBUG"},
		{l.Warn, "clearing log suffix", "WARN"},
		{l.Error, "failed to get log", "ERROR"},
		{l.Error, "failed to persist vote", "ERROR"},
	} {
		out.Reset()
		c.say(c.text, "peer", hclog.Fmt("{%d}", 1))
		require.Contains(t, out.String(), "level="+c.want, c.text)
		require.Contains(t, out.String(), c.text)
	}
}
