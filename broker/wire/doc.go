// Package wire owns the sockets of the broker: listeners, frames, ordered
// answers and the memory that requests take before anything trusts them. It
// knows how Kafka's bytes are laid out and nothing of what they mean.
//
// A frame's way: the reader goroutine of its connection takes it into a pooled
// buffer, whose memory was reserved from one budget for all connections as the
// bytes arrived; the header is parsed; the guard walks the body by our own
// table of layouts (layouts.go) and bounds what decoding can cost; kmsg decodes
// it; Handler.ServeKafka gets it, in the order of arrival.
//
// Goroutines: one accept loop a listener, one sweeper for all deadlines, one
// reader a connection, and one short-lived writer a connection while answers
// are pending. An answer given before ServeKafka returns, with none pending
// before it, is written by the reader itself.
//
// What always holds:
//   - answers leave in the order of their requests, each at most once;
//   - an idle connection owns no buffer and no timer;
//   - a connection that has too many requests or bytes in flight, is throttled,
//     or finds the budget empty stops reading, but still notices that its peer
//     went away, whereupon Request.Context is cancelled;
//   - one reader is always allowed to finish its frame, budget or not, so that
//     connections never wait for each other's half-read frames;
//   - the reader goroutine of a connection closes it, after its writer ended.
//
// Lock order: Server.mu, Conn.mu and budget.mu are leaves, never held together,
// and no lock is held across a read, a write or a call of the Handler.
//
// The package needs Linux: sendfile, MSG_MORE and POLLRDHUP.
package wire
