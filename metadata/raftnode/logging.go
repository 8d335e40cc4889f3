package raftnode

import (
	"bytes"
	"fmt"
	"log/slog"
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

// Write takes one line, which begins with its level in brackets. That a lone
// voter finds no leader when it starts is what is expected, and no warning.
func (w raftLines) Write(line []byte) (int, error) {
	level, text, _ := bytes.Cut(bytes.TrimSpace(line), []byte("]"))
	words := string(bytes.TrimSpace(text))
	switch {
	case string(level) == "[ERROR":
		w.l.Error(words)
	case string(level) == "[WARN" && !strings.Contains(words, "starting election"):
		w.l.Warn(words)
	default:
		w.l.Debug(words)
	}
	return len(line), nil
}
