// Package probe holds the raw probes that stand beside Firn's figures: what
// the machine does for the least work that does the job at all.
//
//   - ProduceServer reads Kafka Produce frames, checks each batch's checksum,
//     writes the bytes to a file per partition and answers.
//   - FileServer sends files by sendfile, Drain takes them in.
//   - GetObjects reads objects of an S3 store in parallel and drops the bytes.
//
// A probe does no more than that: no validation of records, no index, no
// offsets but a count. Each is run in a process of its own, so that its CPU
// time, which the operating system counts, is its own.
//
// The servers own one goroutine that accepts and one for each connection; Close
// ends them all and waits. Package load, below this one, makes the load.
package probe
