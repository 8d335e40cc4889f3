package raftnode

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// pebbleLogger passes Pebble's words to slog; its chatter is debug.
type pebbleLogger struct{ l *slog.Logger }

// Infof implements pebble.Logger.
func (p pebbleLogger) Infof(format string, args ...any) { p.l.Debug(fmt.Sprintf(format, args...)) }

// Errorf implements pebble.Logger.
func (p pebbleLogger) Errorf(format string, args ...any) { p.l.Error(fmt.Sprintf(format, args...)) }

// Fatalf implements pebble.Logger. Pebble cannot go on after it, and a write may
// or may not be on disk: the process must end.
func (p pebbleLogger) Fatalf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	p.l.Error(msg)
	panic(msg)
}

// newRaftLogger passes Raft's lines to slog, level by level.
func newRaftLogger(l *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, Output: raftLines{l}, DisableTime: true})
}

type raftLines struct{ l *slog.Logger }

// expected begin lines that are debug whatever Raft's level. That a lone voter finds
// no leader when it starts is what is expected; and Raft repeats for each RPC that a
// server does not answer, which the node logs once (noteHeartbeat).
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
