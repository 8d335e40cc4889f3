package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Target says what a figure is to reach.
type Target struct {
	// OfRatio compares the ratio to the raw probe rather than the value.
	OfRatio bool `json:"of_ratio"`
	// Least asks for Bound or more, otherwise for Bound or less.
	Least bool    `json:"least"`
	Bound float64 `json:"bound"`
}

// String writes the target as the table does.
func (t Target) String() string {
	sign := "≤"
	if t.Least {
		sign = "≥"
	}
	if t.OfRatio {
		return fmt.Sprintf("%s %g×", sign, t.Bound)
	}
	return fmt.Sprintf("%s %g", sign, t.Bound)
}

// met compares with rounding to what is printed.
func (t Target) met(v float64) bool {
	if t.Least {
		return v >= t.Bound
	}
	return v <= t.Bound
}

// Figure is one measured quantity: all runs, and their medians.
type Figure struct {
	Case   string    `json:"case"`
	What   string    `json:"what"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"` // Firn's, run by run
	// Raw are the values of the probe or the baseline that RawWhat names, one
	// for each run of Values or none.
	Raw     []float64 `json:"raw,omitempty"`
	RawWhat string    `json:"raw_what,omitempty"`

	Median    float64 `json:"median"`
	RawMedian float64 `json:"raw_median,omitempty"`
	// Ratio is the median of the ratios of the pairs, not that of the medians:
	// a pair is run close together and shares the machine's mood.
	Ratio  float64 `json:"ratio,omitempty"`
	Target *Target `json:"target,omitempty"`
	Met    *bool   `json:"met,omitempty"` // nil without target or value
	// Note says what the reader must know; for a figure without values, why
	// there are none.
	Note string `json:"note,omitempty"`
}

// finish computes what follows from the values.
func (f *Figure) finish() {
	if len(f.Values) == 0 {
		return
	}
	f.Median = median(f.Values)
	if len(f.Raw) == len(f.Values) {
		f.RawMedian = median(f.Raw)
		ratios := make([]float64, 0, len(f.Raw))
		for i, raw := range f.Raw {
			if raw > 0 {
				ratios = append(ratios, f.Values[i]/raw)
			}
		}
		f.Ratio = median(ratios)
	}
	if f.Target != nil {
		v := f.Median
		if f.Target.OfRatio {
			v = f.Ratio
		}
		met := f.Target.met(v)
		f.Met = &met
	}
}

// median is 0 of nothing.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	if len(v)%2 == 1 {
		return v[mid]
	}
	return (v[mid-1] + v[mid]) / 2
}

// number writes three significant digits without exponent.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	return fmt.Sprintf("%.*f", digits, v)
}

// WriteText writes the figure for a person.
func (f *Figure) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%-14s %s: ", f.Case, f.What)
	if len(f.Values) == 0 {
		fmt.Fprintf(&b, "NOT MEASURED: %s\n", f.Note)
		_, err := io.WriteString(w, b.String())
		return err
	}
	fmt.Fprintf(&b, "%s %s", number(f.Median), f.Unit)
	if len(f.Raw) > 0 {
		fmt.Fprintf(&b, ", %s %s %s, ratio %.2f", f.RawWhat, number(f.RawMedian), f.Unit, f.Ratio)
	}
	if f.Target != nil && f.Met != nil {
		verdict := "met"
		if !*f.Met {
			verdict = "MISSED"
		}
		fmt.Fprintf(&b, " (%s: %s)", f.Target, verdict)
	}
	b.WriteString("\n")
	runs := func(name string, values []float64) {
		if len(values) > 1 {
			fmt.Fprintf(&b, "%-14s   %s:", "", name)
			for _, v := range values {
				fmt.Fprintf(&b, " %s", number(v))
			}
			b.WriteString("\n")
		}
	}
	runs("runs", f.Values)
	runs(f.RawWhat, f.Raw)
	if f.Note != "" {
		fmt.Fprintf(&b, "%-14s   %s\n", "", f.Note)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Report is a whole run of the bench.
type Report struct {
	Machine Machine  `json:"machine"`
	Commit  string   `json:"commit"` // of Firn, as the binary tells
	Scale   float64  `json:"scale"`
	Runs    int      `json:"runs"`
	Figures []Figure `json:"figures"`
}

// WriteJSON writes the report as one indented object.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
