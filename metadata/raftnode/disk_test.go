package raftnode

import (
	"fmt"
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
	for below, why := range map[string]string{
		"raft": "input/output error", "state": "input/output error",
		"raft is full": "no space left", "state is full": "no space left",
	} {
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
			database, _, _ := strings.Cut(below, " ")
			require.Contains(t, told[0], "metadata/"+database)
			require.Contains(t, told[0], why)
		})
	}
}

// runOnFailingDisk is the child: writes below one directory fail once the node is up;
// on a full disk those of the write-ahead log.
func runOnFailingDisk(t *testing.T, below string) {
	var failing atomic.Bool
	below, full := strings.CutSuffix(below, " is full")
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full {
			if failing.Load() && op.Kind == errorfs.OpFileWrite && strings.Contains(op.Path, "metadata/"+below) && strings.HasSuffix(op.Path, ".log") {
				return syscall.ENOSPC
			}
			return nil
		}
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
	if below == "state" && !full { // which is not written to at each command
		err := n.fsm.Flush()
		t.Fatalf("the state was flushed: %v", err)
	}
	for i := range 50 { // the state's log is not waited for
		createTopic(t, n, fmt.Sprint("t", i), 100)
		if below == "raft" {
			t.Fatal("a topic was created")
		}
	}
	t.Fatal("topics were created")
}
