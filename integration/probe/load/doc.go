// Package load makes the load of Firn's figures: raw Kafka over plain TCP, with
// requests that were encoded before the clock starts, so that the generator
// takes little of the CPU it shares with what it measures. It loads Firn, any
// other Kafka broker, and probe.ProduceServer alike.
//
// Produce keeps a fixed number of requests in flight on each connection and
// times them one by one. Fetch drains partitions without a session and counts
// bytes. Neither retries: the first error ends the run.
//
// Each connection of a Produce run has two goroutines, one that writes and one
// that reads; a Fetch connection has one. All end before the call returns.
package load
