// Package sim runs a cluster in a deterministic simulator.
package sim
