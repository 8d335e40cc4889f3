package raftnode

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
)

// A disk that fails below one of the node's databases ends the process with one line
// and exit code 1; it used to be a panic with the stacks of all goroutines.
func TestFailedDiskEndsTheProcess(t *testing.T) {
	const child = "FIRN_TEST_FAIL_BELOW"
	if below := os.Getenv(child); below != "" {
		runOnFailingDisk(t, below)
		return
	}
	for _, below := range []string{"raft", "state"} {
		t.Run(below, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestFailedDiskEndsTheProcess$")
			cmd.Env = append(os.Environ(), child+"="+below)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, 1, exit.ExitCode(), "%s", out)
			var told []string
			for line := range strings.Lines(string(out)) {
				if !strings.HasPrefix(line, "level=INFO") {
					told = append(told, line)
				}
			}
			require.Len(t, told, 1, "%s", out)
			require.Contains(t, told[0], "level=ERROR")
			require.Contains(t, told[0], "disk failed")
			require.Contains(t, told[0], "metadata/"+below)
			require.Contains(t, told[0], "input/output error")
		})
	}
}

// runOnFailingDisk is the child: writes below one directory fail once the node is up.
func runOnFailingDisk(t *testing.T, below string) {
	var failing atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if failing.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.Contains(op.Path, "metadata/"+below) {
			return syscall.EIO
		}
		return nil
	}))
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	n := openNode(t, Options{FS: fs, Dir: "metadata", Logger: logger})
	ready(t, n)
	register(t, n)
	failing.Store(true)
	if below == "state" { // which is not written to at each command
		err := n.fsm.Flush()
		t.Fatalf("the state was flushed: %v", err)
	}
	createTopic(t, n, "t", 1)
	t.Fatal(errors.New("a topic was created"))
}
