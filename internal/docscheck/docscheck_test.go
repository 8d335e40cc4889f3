package docscheck

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// pages are the written pages of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/format/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		all = append(all, found...)
	}
	require.Greater(t, len(all), 20)
	return all
}

// sources are the tests of the repository, Go's and the clients', by path.
func sources(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".py") {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all[strings.TrimPrefix(path, root+"/")] = string(b)
		}
		return nil
	}))
	return all
}

func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#: ]+)(#[^)]*)?\)`)
	seen := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range link.FindAllSubmatch(text, -1) {
			seen++
			_, err := os.Stat(filepath.Join(filepath.Dir(page), string(m[1])))
			require.NoError(t, err, "%s links to %s", page, m[1])
		}
	}
	require.Greater(t, seen, 20)
}

// Tests are named in backquotes: TestX, or a check of the clients' by its
// function's name; files by the end of their path.
func TestNamedTestsExist(t *testing.T) {
	tests := sources(t)
	name := regexp.MustCompile("`([\\w./-]+\\.(?:go|py)|Test\\w+|[a-z]+(?:_[a-z]+)+)`")
	seen := 0
	for _, page := range []string{"docs/features.md", "ARCHITECTURE.md"} {
		text, err := os.ReadFile(filepath.Join(root, page))
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if page == "ARCHITECTURE.md" && !strings.Contains(line, "`Test") {
				continue
			}
			for _, m := range name.FindAllStringSubmatch(line, -1) {
				what := m[1]
				define := "func " + what + "("
				if !strings.HasPrefix(what, "Test") {
					define = "def " + what + "("
				}
				found := false
				for path, source := range tests {
					found = found || path == what || strings.HasSuffix(path, "/"+what) || strings.Contains(source, define)
				}
				if !found && !strings.HasPrefix(what, "Test") && !strings.Contains(what, ".") {
					continue // a word of the text
				}
				seen++
				require.True(t, found, "%s names %s, which does not exist", page, what)
			}
		}
	}
	require.Greater(t, seen, 60)
}
