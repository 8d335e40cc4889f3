package wire

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Listener names an address to serve. Clients on different listeners may get
// different addresses in Metadata, so the name travels with each connection.
type Listener struct {
	Name string      // Kafka's listener name, e.g. "PLAINTEXT"; unique
	Addr string      // host:port to bind; port 0 picks a free one (see Server.Addr)
	TLS  *tls.Config // nil: plaintext
}

// Options configure a Server. Zero fields take the defaults named beside them.
type Options struct {
	Listeners []Listener // at least one
	Handler   Handler    // required
	Table     *Table     // required: the keys and versions that are served
	Logger    *slog.Logger

	// MaxConnections bounds all connections (default 100,000) and
	// MaxConnectionsPerIP those from one address (default: no own bound). A
	// connection beyond them is closed at once (Kafka: max.connections).
	MaxConnections      int
	MaxConnectionsPerIP int

	// SendBufferBytes and ReceiveBufferBytes are the sockets' buffers; 0 and
	// below leave them to the system (socket.send.buffer.bytes and so on).
	SendBufferBytes    int
	ReceiveBufferBytes int

	// IdleTimeout closes a connection without traffic and without a request in
	// flight (default 10 min; Kafka: connections.max.idle.ms).
	IdleTimeout time.Duration
	// FrameTimeout is what a frame may take from its first byte to its last,
	// plus a second for each MinFrameRate bytes of it (default 30 s).
	FrameTimeout time.Duration
	// MinFrameRate in bytes per second (default 64 KiB).
	MinFrameRate int64
	// WriteTimeout closes a connection whose peer takes no byte of an answer
	// for so long (default 30 s).
	WriteTimeout time.Duration
	// HandshakeTimeout bounds the TLS handshake (default 10 s).
	HandshakeTimeout time.Duration

	// MaxInFlight is the number of unanswered requests after which a connection
	// is not read further (default 64).
	MaxInFlight int
	// MaxInFlightBytes is the memory of unanswered requests after which a
	// connection is not read further (default 32 MiB). One frame, however
	// large, is always let through.
	MaxInFlightBytes int64
	// MemoryBudget bounds the memory of all frames, of what they decode to and
	// of unsent answers (default 512 MiB). When it is used up connections wait,
	// in order; answers and the one reader that is let through to keep things
	// moving may exceed it.
	MemoryBudget int64
	// BrokerMemory is what of MemoryBudget is kept for the connections of other
	// brokers (Server.ServeConn), so that clients cannot starve replication (default
	// an eighth).
	BrokerMemory int64
}

func (o *Options) fill() error {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def64 := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	defTime := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.MaxConnections, 100_000)
	def(&o.MaxConnectionsPerIP, o.MaxConnections)
	def(&o.MaxInFlight, 64)
	def64(&o.MaxInFlightBytes, 32<<20)
	def64(&o.MemoryBudget, 512<<20)
	def64(&o.BrokerMemory, o.MemoryBudget/8)
	def64(&o.MinFrameRate, 64<<10)
	defTime(&o.IdleTimeout, 10*time.Minute)
	defTime(&o.FrameTimeout, 30*time.Second)
	defTime(&o.WriteTimeout, 30*time.Second)
	defTime(&o.HandshakeTimeout, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}

	var errs []error
	if len(o.Listeners) == 0 {
		errs = append(errs, errors.New("no listeners"))
	}
	names := make(map[string]bool, len(o.Listeners))
	for _, l := range o.Listeners {
		if l.Name == ClusterListener {
			errs = append(errs, fmt.Errorf("listener name %q is that of the port between brokers", l.Name))
		}
		if l.Name == "" || names[l.Name] {
			errs = append(errs, fmt.Errorf("listener name %q is empty or used twice", l.Name))
		}
		names[l.Name] = true
	}
	if o.Handler == nil {
		errs = append(errs, errors.New("no handler"))
	}
	if o.Table == nil {
		errs = append(errs, errors.New("no table of APIs"))
	}
	if min(o.MaxConnections, o.MaxConnectionsPerIP, o.MaxInFlight) < 0 ||
		min(o.MaxInFlightBytes, o.MemoryBudget, o.BrokerMemory, o.MinFrameRate) < 0 ||
		min(o.IdleTimeout, o.FrameTimeout, o.WriteTimeout, o.HandshakeTimeout) < 0 {
		errs = append(errs, errors.New("a limit is negative"))
	}
	if o.BrokerMemory > o.MemoryBudget {
		errs = append(errs, errors.New("more memory is kept for brokers than there is"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("wire options: %w", err)
	}
	return nil
}
