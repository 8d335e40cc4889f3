package raftnode

import (
	"bytes"
	"fmt"
	"log/slog"

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

// Write takes one line, which begins with its level in brackets.
func (w raftLines) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	switch {
	case bytes.HasPrefix(line, []byte("[ERROR]")):
		w.l.Error(text)
	case bytes.HasPrefix(line, []byte("[WARN]")):
		w.l.Warn(text)
	default:
		w.l.Debug(text)
	}
	return len(line), nil
}
