package broker

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every metric stands in the operator's manual, with its meaning, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	source, err := os.ReadFile("metrics.go")
	require.NoError(t, err)
	page, err := os.ReadFile("../docs/operating.md")
	require.NoError(t, err)

	documented := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (?:gauge|counter|histogram) \\| [a-z, ]* \\| (.+) \\|$").FindAllSubmatch(page, -1) {
		documented[string(m[1])] = string(m[2])
	}
	defined := make(map[string]string)
	for _, m := range regexp.MustCompile(`\bdesc\("([a-z_]+)", "([^"]+)"`).FindAllSubmatch(source, -1) {
		defined[string(m[1])] = string(m[2])
	}
	require.Greater(t, len(defined), 50, "metrics.go was not understood")
	require.Equal(t, defined, documented)
}
