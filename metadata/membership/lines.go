package membership

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"strings"
)

// lines passes the log lines of Serf and memberlist to slog. Their errors are
// mostly a peer that does not answer, which is their daily bread and for the
// failure detector to weigh: nothing of theirs is more than a warning here.
type lines struct {
	log *slog.Logger
	// undecryptable is told who sent what the key does not open.
	undecryptable func(from string)
}

func newLines(l *slog.Logger, undecryptable func(from string)) *log.Logger {
	return log.New(&lines{log: l, undecryptable: undecryptable}, "", 0)
}

// chatter are lines that say what always happens, or what this package tells in
// its own words.
var chatter = []string{
	"Shutdown without a Leave", "Failed to re-join", "Failed push/pull merge", "ignoring alive message", "Name conflict", "Node name conflicts",
	"Conflicting address", "Got ping for unexpected node", "failed to receive: EOF", "Stream connection", "Was able to connect", "binding to public address",
	"Refuting an alive message", "Refuting a suspect message", "Failed fallback TCP ping", "failed to resolve",
}

// Write takes one line: "[WARN] memberlist: text from=1.2.3.4:5".
func (w *lines) Write(line []byte) (int, error) {
	level, text, ok := bytes.Cut(bytes.TrimSpace(line), []byte("] "))
	if !ok {
		level, text = nil, bytes.TrimSpace(line)
	}
	words := string(text)
	if garbled(words) || isWrongKey(words) {
		_, from, _ := strings.Cut(words, "from=")
		w.undecryptable(from)
		return len(line), nil
	}
	at := slog.LevelDebug
	switch string(level) {
	case "[ERR", "[ERROR":
		at = slog.LevelWarn
	case "[WARN":
		at = slog.LevelInfo
	}
	for _, known := range chatter {
		if strings.Contains(words, known) {
			at = slog.LevelDebug
		}
	}
	w.log.Log(context.Background(), at, "gossip: "+words)
	return len(line), nil
}

// What memberlist says at either end where keys differ.
var (
	saysOtherKey  = "no installed keys could decrypt the message"
	saysWeHaveNo  = "remote state is encrypted and encryption is not configured"
	saysTheirsNo  = "encryption is configured but remote state is not encrypted"
	keyComplaints = []string{saysOtherKey, saysWeHaveNo, saysTheirsNo}
)

// garbled reports what memberlist says of a packet that it cannot read: one under
// another key, or, where there is no key here, under any.
func garbled(words string) bool {
	return strings.Contains(words, "Decrypt packet failed") || strings.Contains(words, "Failed to decode") ||
		strings.Contains(words, "msg type") && strings.Contains(words, "not supported")
}

func isWrongKey(text string) bool {
	for _, complaint := range keyComplaints {
		if strings.Contains(text, complaint) {
			return true
		}
	}
	return false
}
