package bench

import (
	"bytes"
	"context"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestMedianIsInTheMiddle(t *testing.T) {
	require.Zero(t, median(nil))
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 20).Draw(t, "values")
		before := slices.Clone(values)
		m := median(values)
		require.Equal(t, before, values, "the order of the runs stays")
		below, above := 0, 0
		for _, v := range values {
			if v < m {
				below++
			}
			if v > m {
				above++
			}
		}
		require.LessOrEqual(t, below, len(values)/2)
		require.LessOrEqual(t, above, len(values)/2)
	})
}

func TestFigureComparesPairs(t *testing.T) {
	// The machine was slow in the second run, for both.
	f := Figure{Case: "row", What: "CPU", Unit: "s", Values: []float64{1.1, 5.5, 1.1}, Raw: []float64{1, 5, 1}, RawWhat: "bare",
		Target: &Target{OfRatio: true, Bound: 1.2}}
	f.finish()
	require.InDelta(t, 1.1, f.Ratio, 1e-9)
	require.True(t, *f.Met)

	f.Target.Bound = 1.05
	f.finish()
	require.False(t, *f.Met)

	f.Target = &Target{Least: true, Bound: 2}
	f.finish()
	require.False(t, *f.Met, "the median is 1.1")
	var out bytes.Buffer
	require.NoError(t, f.WriteText(&out))
	require.Equal(t, `row            CPU: 1.10 s, bare 1.00 s, ratio 1.10 (≥ 2: MISSED)
                 runs: 1.10 5.50 1.10
                 bare: 1.00 5.00 1.00
`, out.String())
}

func TestFigureWithoutValues(t *testing.T) {
	f := Figure{Case: "link", What: "read", Target: &Target{Bound: 1}, Note: "a network namespace needs root"}
	f.finish()
	require.Nil(t, f.Met)
	var out bytes.Buffer
	require.NoError(t, f.WriteText(&out))
	require.Equal(t, "link           read: NOT MEASURED: a network namespace needs root\n", out.String())
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.00476: "0.00476", 1: "1.00", 12.34: "12.3", 4505: "4505", -0.5: "-0.500"} {
		require.Equal(t, want, number(v))
	}
}

func TestPairsTakeTurns(t *testing.T) {
	var calls string
	var out bytes.Buffer
	e := Env{Runs: 3, Log: &out}
	f := Figure{}
	step := func(name string, v float64) sample {
		return func(context.Context) (float64, error) { calls += name; return v, nil }
	}
	require.NoError(t, e.pairs(t.Context(), &f, step("f", 2), step("r", 1)))
	require.Equal(t, "rffrrf", calls)
	f.finish()
	require.InDelta(t, 2, f.Ratio, 1e-9)
}

func TestMemoryOfThisProcess(t *testing.T) {
	all, own, err := memory(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, all, own)
	require.Positive(t, own)
	_, _, err = memory(math.MaxInt32)
	require.Error(t, err)
}
