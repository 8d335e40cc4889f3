package membership

import (
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares what a writer makes with the file of its version.
func golden(t *testing.T, name string, write func(path string) error) []byte {
	t.Helper()
	made := filepath.Join(t.TempDir(), "cluster", name)
	require.NoError(t, write(made))
	got, err := os.ReadFile(made)
	require.NoError(t, err)
	path := filepath.Join("testdata", "v1."+name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	return want
}

func TestGoldenFiles(t *testing.T) {
	a, b := uuid.MustParse("00000000-0000-4000-8000-00000000000a"), uuid.MustParse("00000000-0000-4000-8000-00000000000b")
	servers := []Server{{a, "one:9094"}, {b, "two:9094"}}
	ledger := Ledger{Promised: Ballot{8, b}, Accepted: Ballot{7, a}, Value: servers, Chosen: servers}
	text := golden(t, "formation.json", func(path string) error { return writeLedger(vfs.Default, path, &ledger) })
	back, err := parseLedger(text)
	require.NoError(t, err)
	require.Equal(t, ledger, back)

	text = golden(t, "peers.json", func(path string) error {
		m := &Membership{opts: Options{FS: vfs.Default, PeersFile: path}, others: map[uuid.UUID]Member{}}
		for i, addr := range []string{"10.0.0.2:7946", "[fd00::3]:7946"} {
			m.others[uuid.UUID{byte(i)}] = Member{GossipAddr: netip.MustParseAddrPort(addr)}
		}
		m.Remember()
		return nil
	})
	peers, err := parsePeers(text)
	require.NoError(t, err)
	require.Equal(t, []string{"10.0.0.2:7946", "[fd00::3]:7946"}, peers)
}

// TestPeersAfterAFullDisk: peers that could not be written are written at the next
// event, whether they changed or not.
func TestPeersAfterAFullDisk(t *testing.T) {
	full := true
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full && op.Kind == errorfs.OpCreate {
			return syscall.ENOSPC
		}
		return nil
	}))
	m := &Membership{opts: Options{FS: fs, PeersFile: "/cluster/peers.json"}, log: slog.New(slog.DiscardHandler),
		others: map[uuid.UUID]Member{{1}: {GossipAddr: netip.MustParseAddrPort("10.0.0.2:7946")}}}
	m.Remember()
	full = false
	m.remember()
	peers, err := readPeers(fs, "/cluster/peers.json")
	require.NoError(t, err)
	require.Equal(t, []string{"10.0.0.2:7946"}, peers)
}
