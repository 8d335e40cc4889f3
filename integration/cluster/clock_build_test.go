package cluster

import (
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/integration/fleet"
)

// moduleRoot is where go.mod is, seen from this package.
const moduleRoot = "../.."

// overlay is other text for files of the module, by path below its root. Files that
// do not exist are added.
type overlay map[string]string

// buildFirn builds a firn with an overlay, and with its version set: no switch exists
// in the code itself.
func buildFirn(t *testing.T, version string, o overlay) (path string) {
	t.Helper()
	root, err := filepath.Abs(moduleRoot)
	require.NoError(t, err)
	dir := t.TempDir()
	replace := map[string]string{}
	for name, text := range o {
		to := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		require.NoError(t, os.WriteFile(to, []byte(text), 0o600))
		replace[filepath.Join(root, name)] = to
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	listed := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(listed, list, 0o600))
	path = filepath.Join(dir, "firn")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-overlay", listed, "-ldflags", "-X main.version="+version,
		"-o", path, "github.com/firnlog/firn/cmd/firn")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Logf("firn %s built in %v", version, time.Since(begin).Round(time.Second))
	return path
}

var (
	readsClock    = regexp.MustCompile(`\btime\.(Now|Since|Until)\b`)
	importsTime   = regexp.MustCompile(`(?m)^\s+"time"$`)
	packageClause = regexp.MustCompile(`(?m)^package \w+$`)
)

// testClock is where the overlay puts package testclock.
const testClock = "internal/testclock"

// buildShifted builds a firn whose wall clock is as wrong as a file says, which its
// environment names: see newClock.
func buildShifted(t *testing.T) (path string) {
	t.Helper()
	o := overlay{}
	text, err := os.ReadFile("testdata/testclock/clock.go")
	require.NoError(t, err)
	o[testClock+"/clock.go"] = string(text)
	root, err := os.OpenRoot(moduleRoot)
	require.NoError(t, err)
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "integration") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := root.ReadFile(path)
		if err != nil || !readsClock.Match(text) || !importsTime.Match(text) {
			return err
		}
		shifted := readsClock.ReplaceAllString(string(text), "testclock.$1")
		at := packageClause.FindStringIndex(shifted)
		require.NotNil(t, at, path)
		// On the same line, so that line numbers stay; package time may have lost its
		// last use.
		o[path] = shifted[:at[1]] + `; import "github.com/firnlog/firn/` + testClock + `"` + shifted[at[1]:] + "\nvar (\n\t_ time.Duration\n\t_ = testclock.Now\n)\n"
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, len(o), 20, "too few files read the clock: it is read otherwise now")
	return buildFirn(t, "shifted", o)
}

// clock is a broker's wall clock.
type clock struct {
	t    *testing.T
	path string
}

// newClock gives a broker that is not running a clock that can be set wrong.
func newClock(t *testing.T, b *fleet.Broker, program string) *clock {
	t.Helper()
	c := &clock{t: t, path: filepath.Join(t.TempDir(), "clock")}
	c.set(0)
	b.Program = program
	b.Env = append(b.Env, "FIRN_TEST_CLOCK="+c.path)
	return c
}

// set makes the clock so far ahead of the right time, or behind, from now on, for the
// process that runs as well. It counts whole seconds.
func (c *clock) set(ahead time.Duration) {
	c.t.Helper()
	var text [8]byte
	binary.NativeEndian.PutUint64(text[:], uint64(ahead/time.Second))
	f, err := os.OpenFile(c.path, os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(c.t, err)
	defer f.Close()
	_, err = f.WriteAt(text[:], 0)
	require.NoError(c.t, err)
}
