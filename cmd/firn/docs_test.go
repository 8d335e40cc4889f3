package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

const (
	docsPath  = "../../docs/cli.md"
	docsStart = "<!-- reference: written by go test ./cmd/firn -update -->\n"
)

// The reference of docs/cli.md is what the commands say themselves.
func TestDocumentationHasEveryCommand(t *testing.T) {
	text, err := os.ReadFile(docsPath)
	require.NoError(t, err)
	head, _, ok := strings.Cut(string(text), docsStart)
	require.True(t, ok, "the mark before the reference is gone")
	var b strings.Builder
	root := newRoot(&app{})
	root.InitDefaultHelpCmd()
	describeCommand(&b, root)
	want := head + docsStart + b.String()
	if *update {
		require.NoError(t, os.WriteFile(docsPath, []byte(want), 0o644))
		return
	}
	require.True(t, want == string(text), "docs are not those of the code: run go test ./cmd/firn -update")
}

func describeCommand(b *strings.Builder, cmd *cobra.Command) {
	if cmd.Name() == "help" || cmd.Name() == "completion" {
		return
	}
	if !cmd.HasSubCommands() {
		fmt.Fprintf(b, "\n### %s\n\n%s.\n\n```\n%s\n", cmd.CommandPath(), cmd.Short, cmd.UseLine())
		if flags := cmd.LocalNonPersistentFlags().FlagUsagesWrapped(110); flags != "" {
			b.WriteString("\n" + flags)
		}
		b.WriteString("```\n")
		if cmd.Example != "" {
			fmt.Fprintf(b, "\n```sh\n%s\n```\n", strings.TrimSpace(strings.ReplaceAll(cmd.Example, "\n  ", "\n")))
		}
	}
	for _, sub := range cmd.Commands() {
		describeCommand(b, sub)
	}
}
