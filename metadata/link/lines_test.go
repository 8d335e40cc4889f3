package link

import (
	"bytes"
	"log"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

// A broker that is paused answers no PING, of which net/http told as an error, without a
// word of where.
func TestLevelsOfServerLines(t *testing.T) {
	var out bytes.Buffer
	l := log.New(serverLines{slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}, "", 0)
	l.Print("timeout waiting for PING response")
	require.Contains(t, out.String(), `level=DEBUG msg="cluster port: timeout waiting for PING response"`)
	out.Reset()
	l.Printf("http2: panic serving %v: %v\n%s", "1.2.3.4:5", "index out of range", "goroutine 1")
	require.Contains(t, out.String(), `level=ERROR msg="cluster port: http2: panic serving 1.2.3.4:5: index out of range`)
}
