package link

import (
	"bytes"
	"context"
	"log/slog"
)

// serverLines passes the lines of net/http to the log. But for a handler that panicked
// they tell of one connection, whose other end is a broker that hangs or went: it dials
// again, and who fails to reach whom is told by those who call.
type serverLines struct{ log *slog.Logger }

// Write takes one line, or a line and a stack.
func (w serverLines) Write(line []byte) (int, error) {
	level := slog.LevelDebug
	if bytes.Contains(line, []byte("panic serving")) {
		level = slog.LevelError
	}
	w.log.Log(context.Background(), level, "cluster port: "+string(bytes.TrimSpace(line)))
	return len(line), nil
}
