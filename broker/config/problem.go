package config

import (
	"fmt"
	"strings"
)

// Problem is one mistake in the settings.
type Problem struct {
	Where string // "firn.yaml:12", "environment FIRN_NODE_ID", "flag --listen"; "" when between several
	Key   string // the setting, or what was written in its place
	Got   string // what was got; "" where that is the key itself
	Want  string // what was wanted, or the fix
}

func (p Problem) String() string {
	var b strings.Builder
	if p.Where != "" {
		b.WriteString(p.Where + ": ")
	}
	b.WriteString(p.Key)
	if p.Got != "" {
		fmt.Fprintf(&b, ": got %q", p.Got)
		if p.Want != "" {
			b.WriteString(", want " + p.Want)
		}
		return b.String()
	}
	if p.Want != "" {
		b.WriteString(": " + p.Want)
	}
	return b.String()
}

// Error is every mistake that Load found, at least one.
type Error struct {
	Problems []Problem
}

func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return "configuration: " + e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "configuration: %d mistakes:", len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}
