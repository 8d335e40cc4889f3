package probe

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Report is the outcome of a run, in the units that docs/performance.md uses.
// 1 GB is 10^9 bytes.
type Report struct {
	Probe       string   `json:"probe"`
	Bytes       int64    `json:"bytes"`
	Operations  int64    `json:"operations"` // requests, objects or passes over a file
	Seconds     float64  `json:"seconds"`
	MBPerSecond float64  `json:"mb_per_second"`
	Connections int      `json:"connections"`
	Latency     *Latency `json:"latency_ms,omitempty"`

	// CPU time of the server, where its process was named, and of this
	// process, in seconds; and the server's for 1 GB.
	ServerCPU      *float64 `json:"server_cpu_seconds,omitempty"`
	ServerCPUPerGB *float64 `json:"server_cpu_seconds_per_gb,omitempty"`
	OwnCPU         float64  `json:"own_cpu_seconds"`
	OwnCPUPerGB    float64  `json:"own_cpu_seconds_per_gb"`
}

// Latency holds quantiles in milliseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// NewReport puts figures together. pid says whether usage has a target's CPU
// time.
func NewReport(name string, bytes, operations int64, connections int, u Usage, pid int) Report {
	r := Report{Probe: name, Bytes: bytes, Operations: operations, Connections: connections,
		Seconds: u.Wall.Seconds(), OwnCPU: u.Self.Seconds()}
	gb := float64(bytes) / 1e9
	if r.Seconds > 0 {
		r.MBPerSecond = float64(bytes) / 1e6 / r.Seconds
	}
	if gb > 0 {
		r.OwnCPUPerGB = r.OwnCPU / gb
	}
	if pid != 0 {
		cpu := u.Target.Seconds()
		r.ServerCPU = &cpu
		if gb > 0 {
			per := cpu / gb
			r.ServerCPUPerGB = &per
		}
	}
	return r
}

// WriteJSON writes the report as one line of JSON.
func (r Report) WriteJSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

// WriteText writes the report for a person.
func (r Report) WriteText(w io.Writer) error {
	line := func(format string, args ...any) string { return fmt.Sprintf(format, args...) }
	out := line("%-12s %d bytes in %.3f s over %d connections: %.1f MB/s, %d operations\n",
		r.Probe, r.Bytes, r.Seconds, r.Connections, r.MBPerSecond, r.Operations)
	if r.Latency != nil {
		out += line("%-12s p50 %.3f ms, p99 %.3f ms, p99.9 %.3f ms, max %.3f ms\n",
			"latency", r.Latency.P50, r.Latency.P99, r.Latency.P999, r.Latency.Max)
	}
	if r.ServerCPU != nil && r.ServerCPUPerGB != nil {
		out += line("%-12s %.2f s, %.3f s for 1 GB\n", "server CPU", *r.ServerCPU, *r.ServerCPUPerGB)
	}
	out += line("%-12s %.2f s, %.3f s for 1 GB\n", "own CPU", r.OwnCPU, r.OwnCPUPerGB)
	_, err := io.WriteString(w, out)
	return err
}

// milliseconds converts for a Latency.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// NewLatency converts quantiles.
func NewLatency(p50, p99, p999, longest time.Duration) *Latency {
	return &Latency{P50: milliseconds(p50), P99: milliseconds(p99), P999: milliseconds(p999), Max: milliseconds(longest)}
}
