package raftnode

import (
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/command"
)

var quiet = slog.New(slog.DiscardHandler)

func testRand(seed int64) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 1)) }

func requireKnown(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, command.ErrCorrupt) && !errors.Is(err, command.ErrUnknownVersion) {
		t.Fatalf("not a typed error: %v", err)
	}
}

func readAll(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return b
}
