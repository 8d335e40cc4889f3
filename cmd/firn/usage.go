package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/firnlog/firn/metadata/configdef"
)

// explainMistakes gives a tree of commands words for mistakes in the use of it: a
// command that does not exist, arguments too few or too many, flags that are not
// known or have no such value. cobra alone answers the first with the help text
// and success, and the others with those of Go's parsers.
func explainMistakes(root *cobra.Command) {
	root.SetFlagErrorFunc(flagMistake)
	for _, cmd := range append(root.Commands(), root) {
		explainUse(cmd)
	}
}

func explainUse(cmd *cobra.Command) {
	if cmd.HasSubCommands() {
		cmd.Args, cmd.RunE, cmd.DisableFlagsInUseLine = cobra.ArbitraryArgs, runFamily, true
		for _, sub := range cmd.Commands() {
			explainUse(sub)
		}
		return
	}
	valid := cmd.Args
	if valid == nil {
		valid = cobra.ArbitraryArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if valid(cmd, args) == nil {
			return nil
		}
		got := plural(len(args), "argument")
		if len(args) > 0 {
			got += fmt.Sprintf(" (%s)", strings.Join(args, " "))
		}
		return fmt.Errorf("%s: got %s, want `%s`", cmd.CommandPath(), got, cmd.UseLine())
	}
}

// runFamily runs a command that only holds others: alone it shows its help.
func runFamily(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var names []string
	for _, sub := range cmd.Commands() {
		if !sub.Hidden {
			names = append(names, sub.Name())
		}
	}
	return fmt.Errorf("%q is no command of %s%s; `%s --help` lists them", args[0], cmd.CommandPath(), didYouMean(args[0], "", names), cmd.CommandPath())
}

func didYouMean(word, prefix string, known []string) string {
	near := configdef.Nearest(word, known)
	if near == "" {
		return ""
	}
	return "; did you mean " + prefix + near + "?"
}

// flagMistake words the errors of flags.
func flagMistake(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var invalid *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	switch {
	case errors.As(err, &unknown):
		return unknownFlag(cmd, unknown)
	case errors.As(err, &invalid):
		f := invalid.GetFlag()
		return fmt.Errorf("--%s: got %q, want %s", f.Name, invalid.GetValue(), wantedByFlag(f))
	case errors.As(err, &missing):
		f := missing.GetFlag()
		return fmt.Errorf("--%s needs a value: %s", f.Name, f.Usage)
	}
	return fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())
}

func unknownFlag(cmd *cobra.Command, unknown *pflag.NotExistError) error {
	name, written := unknown.GetSpecifiedName(), "--"
	if unknown.GetSpecifiedShortnames() != "" {
		written = "-"
	}
	// A setting is no flag of its own, as much as it looks like one.
	if _, ok := configdef.Broker(name); ok && cmd.Flags().Lookup("set") != nil {
		return fmt.Errorf("unknown flag --%s: settings are given as --set %s=VALUE", name, name)
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	near := ""
	if written == "--" {
		near = didYouMean(name, "--", names)
	}
	return fmt.Errorf("unknown flag %s%s%s; `%s --help` lists them", written, name, near, cmd.CommandPath())
}

func wantedByFlag(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "int", "int16", "int32", "int64":
		return "a whole number"
	case "float64":
		return "a number"
	case "bool":
		return "true or false"
	case "duration":
		return "a duration such as 30s or 5m"
	case "int32Slice":
		return "whole numbers, separated by commas"
	}
	return f.Usage
}
