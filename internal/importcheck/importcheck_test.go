package importcheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	module = "github.com/firnlog/firn/"
	kmsg   = "github.com/twmb/franz-go/pkg/kmsg"
)

// layers are the packages from the bottom up. A package imports from layers below
// its own; those on one line of a layer (a path and what is under it) may import
// each other.
var layers = [][]string{
	{"internal"},
	{"record"},
	{"commitlog", "cache", "tiering/objstore", "tiering/manifest", "tiering/object", "metadata/configdef", "metadata/link"},
	{"metadata/command"},
	{"metadata"},
	{"metadata/fsm", "metadata/controller", "tiering/archive", "tiering/remote", "tiering/reclaim", "tiering/tiertest"},
	{"metadata/raftnode"},
	{"metadata/membership"},
	{"broker/adminapi", "broker/config", "broker/replica", "broker/wire", "broker/group"},
	{"broker/partition"},
	{"broker/fetch"},
	{"broker/peer"},
	{"broker/api"},
	{"broker"},
	{"cmd/firn", "integration"},
}

// kmsgFiles may import kmsg: what meets the protocol, and the coordinators'
// record codecs. A path without .go stands for the package.
var kmsgFiles = []string{
	"broker/wire",
	"broker/api",
	"broker/peer",
	"broker/group/records.go",
	"broker/metrics.go",    // the APIs' names alone
	"cmd/firn/requests.go", // a client of any broker: what kadm cannot ask
	"integration",
}

// testOnly is never linked into the program.
var testOnly = []string{"internal", "tiering/objstore/storetest", "tiering/objstore/faulty", "tiering/tiertest", "integration"}

// pkg is what go list tells of a package; its own tests do not count.
type pkg struct {
	ImportPath, Dir string
	GoFiles         []string
	Imports         []string
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,Imports"}, args...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, p)
	}
}

// under reports whether name is the package or below it.
func under(name, root string) bool { return name == root || strings.HasPrefix(name, root+"/") }

// place finds the layer of a package and the line of it, by the longest path.
func place(name string) (layer int, line string) {
	layer = -1
	for i, lines := range layers {
		for _, l := range lines {
			if under(name, l) && len(l) > len(line) {
				layer, line = i, l
			}
		}
	}
	return layer, line
}

// allowed says what is wrong with an import of ours, "" if nothing.
func allowed(from, to string) string {
	layer, line := place(from)
	at, l := place(to)
	switch {
	case layer < 0:
		return from + " is in no layer: say where it belongs"
	case at < 0:
		return to + " is in no layer: say where it belongs"
	case at > layer, at == layer && l != line:
		return from + " imports " + to + ", which is not below it"
	}
	return ""
}

func TestImportsPointOneWay(t *testing.T) {
	seen := 0
	for _, p := range list(t, "./...") {
		require.NotEmpty(t, p.name())
		if layer, _ := place(p.name()); layer < 0 {
			t.Errorf("%s is in no layer: say where it belongs", p.name())
		}
		_, err := os.ReadDir(p.Dir) // a new file, too, makes the cached result of this test stale
		require.NoError(t, err)
		for _, f := range p.GoFiles {
			for _, imp := range imports(t, p.Dir, f) {
				to, ours := strings.CutPrefix(imp, module)
				if !ours {
					continue
				}
				seen++
				if wrong := allowed(p.name(), to); wrong != "" {
					t.Error(path.Join(p.name(), f) + ": " + wrong)
				}
			}
		}
	}
	require.Greater(t, seen, 100, "go list has shown too little")
}

func TestKafkaMessagesStayAtTheDoor(t *testing.T) {
	seen := 0
	for _, p := range list(t, "./...") {
		if !slices.Contains(p.Imports, kmsg) {
			continue // none of its files does
		}
		for _, f := range p.GoFiles {
			file := path.Join(p.name(), f)
			if !slices.Contains(imports(t, p.Dir, f), kmsg) {
				continue
			}
			seen++
			if !slices.ContainsFunc(kmsgFiles, func(root string) bool { return under(file, root) }) {
				t.Errorf("%s imports kmsg: domain code takes and gives its own types", file)
			}
		}
	}
	require.Greater(t, seen, 10, "go list has shown too little")
}

func TestProgramLinksNoTestCode(t *testing.T) {
	deps := list(t, "-deps", "./cmd/firn")
	require.Greater(t, len(deps), 100)
	for _, p := range deps {
		require.NotContains(t, p.ImportPath, "testify")
		if !strings.HasPrefix(p.ImportPath, module) {
			continue
		}
		for _, root := range testOnly {
			require.False(t, under(p.name(), root), "the program links %s", p.ImportPath)
		}
	}
}

// The rules themselves, on imports that must not be.
func TestRulesRefuse(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"commitlog", "record", ""},
		{"commitlog", "commitlog/segment", ""},
		{"broker/api", "broker/partition", ""},
		{"cmd/firn", "broker", ""},
		{"record", "commitlog", "record imports commitlog, which is not below it"},
		{"commitlog", "cache", "commitlog imports cache, which is not below it"},
		{"internal/testminio", "record", "internal/testminio imports record, which is not below it"},
		{"metadata", "metadata/fsm", "metadata imports metadata/fsm, which is not below it"},
		{"metadata/fsm", "metadata/fsm/statepb", ""},
		{"tiering/archive", "tiering/remote", "tiering/archive imports tiering/remote, which is not below it"},
		{"broker/partition", "broker/api", "broker/partition imports broker/api, which is not below it"},
		{"broker", "integration/harness", "broker imports integration/harness, which is not below it"},
		{"tools", "record", "tools is in no layer: say where it belongs"},
	} {
		require.Equal(t, c.want, allowed(c.from, c.to))
	}
}

// imports reads the imports of one file. It does so itself, so that go test knows
// which files its cached result depends on.
func imports(t *testing.T, dir, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, file), nil, parser.ImportsOnly)
	require.NoError(t, err)
	var paths []string
	for _, spec := range f.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		require.NoError(t, err)
		paths = append(paths, p)
	}
	return paths
}
