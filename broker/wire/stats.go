package wire

// Stats are counters since the start, and gauges where they say so.
type Stats struct {
	Connections int64             // gauge
	Accepted    uint64            // including the refused
	Refused     uint64            // over a connection limit
	Requests    map[int16]uint64  // by key
	BytesIn     uint64            // bytes of frames with their prefixes
	BytesOut    uint64            // the same for answers
	InFlight    int64             // gauge: requests without an answer yet
	Closed      map[string]uint64 // connections by reason
	Memory      int64             // gauge: bytes reserved from the budget
	MemoryWaits uint64            // times that a reader had to wait for memory
}
