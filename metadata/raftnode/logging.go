package raftnode

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// newRaftLogger passes Raft's lines to slog, level by level.
func newRaftLogger(l *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, Output: raftLines{l}, DisableTime: true})
}

type raftLines struct{ l *slog.Logger }

// expected begin lines that are debug whatever Raft's level. That a lone voter finds
// no leader when it starts is what is expected; Raft repeats for each RPC that a server
// does not answer, which the node logs once (noteHeartbeat); and each restart of a node
// makes it find out what the others have, and the leader of before that it is none.
var expected = []string{
	"heartbeat timeout reached, starting election",
	"failed to appendEntries to",
	"failed to heartbeat to",
	"failed to pipeline appendEntries",
	"failed to start pipeline replication to",
	"failed to make requestVote RPC",
	"failed to make request",
	"failed to decode incoming command",
	"failed to flush response",
	"failed to contact",
	"Election timeout reached, restarting election",
	"peer has newer term, stopping replication",
	"rejecting pre-vote request since we have a leader",
	"rejecting vote request since we have a leader",
	"appendEntries rejected, sending older logs",
	"failed to get previous log",
}

// Write takes one line, which begins with its level in brackets.
func (w raftLines) Write(line []byte) (int, error) {
	level, text, _ := bytes.Cut(bytes.TrimSpace(line), []byte("]"))
	words := string(bytes.TrimSpace(text))
	said := strings.TrimPrefix(words, "raft: ")
	quiet := slices.ContainsFunc(expected, func(e string) bool { return strings.HasPrefix(said, e) })
	switch {
	case string(level) == "[ERROR" && !quiet:
		w.l.Error(words)
	case string(level) == "[WARN" && !quiet:
		w.l.Warn(words)
	default:
		w.l.Debug(words)
	}
	return len(line), nil
}
