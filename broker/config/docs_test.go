package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/configdef"
)

var update = flag.Bool("update", false, "write the tables of docs/configuration.md anew")

const (
	docsPath  = "../../docs/configuration.md"
	docsStart = "<!-- tables: written by go test ./broker/config -update -->\n"
)

// The reference tables of docs/configuration.md are those of configdef.
func TestDocumentationHasEverySetting(t *testing.T) {
	text, err := os.ReadFile(docsPath)
	require.NoError(t, err)
	head, _, ok := strings.Cut(string(text), docsStart)
	require.True(t, ok, "the mark before the tables is gone")
	want := head + docsStart + tables()
	if *update {
		require.NoError(t, os.WriteFile(docsPath, []byte(want), 0o644))
		return
	}
	require.True(t, want == string(text), "docs are not those of the code: run go test ./broker/config -update")
}

func tables() string {
	var b strings.Builder
	section := func(title string, keys []*configdef.Key, row func(*configdef.Key) string, columns string) {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", title, columns)
		for _, k := range keys {
			b.WriteString(row(k) + "\n")
		}
	}
	section("Broker settings", configdef.BrokerKeys(), func(k *configdef.Key) string {
		dev := ""
		if v, ok := devDefaults[k.Name]; ok && v != k.Default {
			dev = code(v)
		}
		return fmt.Sprintf("| `%s`%s | %s | %s | %s | %s |", k.Name, mark(k), defaultText(k), dev, k.Valid(), doc(k))
	}, "| setting | default | in dev | valid | what it does |\n|---|---|---|---|---|")
	section("Topic settings", configdef.TopicKeys(), func(k *configdef.Key) string {
		names := make([]string, len(k.Synonyms))
		for i, s := range k.Synonyms {
			names[i] = "`" + s.Name + "`"
		}
		return fmt.Sprintf("| `%s`%s | %s | %s | %s | %s |", k.Name, mark(k), defaultText(k), strings.Join(names, ", "), k.Valid(), k.Doc)
	}, "| setting | default | broker's setting for it | valid | what it does |\n|---|---|---|---|---|")
	section("Group settings", configdef.GroupKeys(), func(k *configdef.Key) string {
		return fmt.Sprintf("| `%s` | %s | %s | %s |", k.Name, defaultText(k), k.Valid(), k.Doc)
	}, "| setting | default | valid | what it does |\n|---|---|---|---|")
	return b.String()
}

func mark(k *configdef.Key) string {
	if k.Firn {
		return " ❄"
	}
	return ""
}

func doc(k *configdef.Key) string {
	if k.Mode != configdef.ReadOnly {
		return k.Doc + " Dynamic."
	}
	return k.Doc
}

func defaultText(k *configdef.Key) string {
	switch {
	case !k.HasDefault:
		return "unset"
	case k.Default == "":
		return "empty"
	}
	return code(k.Default)
}

func code(s string) string {
	if s == "9223372036854775807" || s == "2147483647" {
		return "unbounded"
	}
	return "`" + s + "`"
}
