// Package bench measures what docs/performance.md reports: each row of its table
// is a [Case], run against real processes of Firn with a raw probe of the same
// machine (package probe) beside it, pair by pair and in turns, since machines
// are noisy and only ratios last.
//
// CPU time is the operating system's, of the whole process. Sizes are those of
// the table times [Env.Scale]; a case removes its data when it ends. Every
// process that a case starts belongs to it and dies with the bench.
//
// The package runs one case at a time, on the caller's goroutine.
package bench
