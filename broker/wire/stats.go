package wire

import "sync/atomic"

// Stats are counters since the start, and gauges where they say so.
type Stats struct {
	Connections int64             // gauge
	Accepted    uint64            // including the refused
	Refused     uint64            // over a connection limit
	Requests    map[int16]uint64  // by key; those that were served
	BytesIn     uint64            // from sockets, decrypted
	BytesOut    uint64            // handed to sockets
	InFlight    int64             // gauge: requests without an answer yet
	Closed      map[string]uint64 // connections by reason
	Memory      int64             // gauge: bytes reserved from the budget, the brokers' share too
	MemoryWaits uint64            // times that a reader had to wait for memory
	Latency     map[int16]Latency // by key; long polls count with their wait
}

type counters struct {
	accepted, refused atomic.Uint64
	bytesIn, bytesOut atomic.Uint64
	inFlight          atomic.Int64
	requests          [maxKey + 1]atomic.Uint64
	latency           [maxKey + 1]histogram
	closed            [numCloseReasons]atomic.Uint64
}

// closeReason says why a connection closed; it labels a metric.
type closeReason uint8

const (
	closedPeer        closeReason = iota // the client closed it
	closedIO                             // reading or writing failed
	closedIdle                           // nothing happened for IdleTimeout
	closedSlowFrame                      // a frame came too slowly
	closedSlowReader                     // an answer was taken too slowly
	closedOversize                       // frame length negative, tiny or too large
	closedUnsupported                    // unknown key or version
	closedMalformed                      // the guard refused the body
	closedNotKafka                       // TLS or HTTP on a plaintext listener
	closedTLS                            // handshake failed
	closedTruncated                      // a file to send was shorter than promised
	closedByHandler                      // CloseConn, Close
	closedShutdown
	numCloseReasons
)

var closeReasonNames = [numCloseReasons]string{
	"peer", "io", "idle", "slow_frame", "slow_reader", "oversize", "unsupported",
	"malformed", "not_kafka", "tls", "truncated", "handler", "shutdown",
}

func (r closeReason) String() string { return closeReasonNames[r] }

// Stats returns the counters as of now.
func (s *Server) Stats() Stats {
	st := Stats{
		Accepted:    s.counters.accepted.Load(),
		Refused:     s.counters.refused.Load(),
		Requests:    make(map[int16]uint64),
		BytesIn:     s.counters.bytesIn.Load(),
		BytesOut:    s.counters.bytesOut.Load(),
		InFlight:    s.counters.inFlight.Load(),
		Closed:      make(map[string]uint64),
		Latency:     make(map[int16]Latency),
		Memory:      s.clients.used.Load() + s.brokers.used.Load(),
		MemoryWaits: s.clients.waits.Load() + s.brokers.waits.Load(),
	}
	s.mu.Lock()
	st.Connections = int64(len(s.conns))
	s.mu.Unlock()
	for key := range s.counters.requests {
		if n := s.counters.requests[key].Load(); n > 0 {
			st.Requests[int16(key)] = n
			st.Latency[int16(key)] = s.counters.latency[key].read()
		}
	}
	for reason := range s.counters.closed {
		st.Closed[closeReason(reason).String()] = s.counters.closed[reason].Load()
	}
	return st
}
