package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/integration/bench"
)

func TestMistakesAreNamed(t *testing.T) {
	for args, want := range map[string]string{
		"-only=produce-cpu,snow": `no row "snow"; there are produce-cpu, fsync`,
		"-runs=0":                "-runs at least 1",
		"-scale=-1":              "-scale must be above 0",
		"-sclae=1":               "flag provided but not defined",
	} {
		var out bytes.Buffer
		require.ErrorContains(t, run(t.Context(), []string{args}, &out, &out), want)
	}
	var out bytes.Buffer
	require.ErrorContains(t, run(t.Context(), []string{"start"}, &out, &out), `unexpected argument "start"`)
}

func TestChooseKeepsTheOrderAsked(t *testing.T) {
	cases, err := choose("start,fsync")
	require.NoError(t, err)
	require.Len(t, cases, 2)
	require.Equal(t, "start", cases[0].Name)
	require.Equal(t, "fsync", cases[1].Name)
	all, err := choose("")
	require.NoError(t, err)
	require.Len(t, all, len(bench.Cases()))
}
