// Package soak has one test: a real broker under a mixed load of everything at
// once, restarted and killed meanwhile, with a model beside it that knows what
// every answer may be.
//
// `make test` runs a short version. A long one against a broker with the race
// detector, whose findings end up in /tmp/race.*:
//
//	CGO_ENABLED=1 go build -race -o /tmp/firn ./cmd/firn
//	FIRN_TEST_BINARY=/tmp/firn GORACE='halt_on_error=0 log_path=/tmp/race' \
//		go test ./integration/soak -v -timeout 1h -soak=10m -soak.seed=1
//
// # What runs
//
// Producers of every codec write self-describing records into topics of both
// durabilities, tiered and not, trimmed by retention and by DeleteRecords,
// compacted, recompressed, and changed under the load. Readers fetch from
// random offsets, cold, hot and at the seam, by offset and by time, within
// sessions and without. Groups gain and lose members. Topics are made, deleted
// and made again under one name. The admin endpoints are read all the while.
//
// # What holds
//
// The journal knows every record by its offset, from the acks and from the
// first read. An offset has one content for ever, in whichever tier it is read.
// Between two neighbouring records of a read there is no gap but by compaction,
// no acked record is missing, a producer's records come in its order and once.
// What an answer shows of watermarks, log starts and committed offsets is at
// least what an answer before the question showed. Compaction keeps the last
// record of a key. After the load, goroutines, sockets and deleted files are
// back where they were.
package soak
