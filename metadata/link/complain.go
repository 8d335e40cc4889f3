package link

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// errMixed says that one end is under TLS and the other is not. Its text travels to
// the other end, in the clear, as the reason of a refusal.
var errMixed = errors.New("one of the two brokers uses TLS on the port between brokers and the other does not: " +
	"set cluster.tls.cert, cluster.tls.key and cluster.tls.ca on all brokers, or on none")

// looksLikeTLS reports whether a stream begins as a handshake or an alert of TLS.
func looksLikeTLS(b []byte) bool {
	const alert, handshake = 21, 22
	return len(b) >= 2 && (b[0] == alert || b[0] == handshake) && b[1] == 3
}

// refusal is what one who cannot be spoken to in private is told: the reason, and
// nothing of who refuses.
func refusal() []byte {
	return encodeHello(hello{what: helloRefuses, peer: Peer{NodeID: -1}, reason: errMixed.Error()})
}

// refuseInTheClear answers a dialler that said a hello where TLS was due, so that it
// learns why; the error is errMixed then, and otherwise what it was.
func refuseInTheClear(err error) error {
	var record tls.RecordHeaderError
	if !errors.As(err, &record) || record.Conn == nil || !strings.HasPrefix(helloMagic, string(record.RecordHeader[:])) {
		return err
	}
	if _, writeErr := record.Conn.Write(refusal()); writeErr != nil {
		return fmt.Errorf("%w: %w", errMixed, writeErr)
	}
	return errMixed
}

// refuseTLS answers a dialler that began TLS where none is: it sees by the first
// bytes what is wrong.
func refuseTLS(conn net.Conn, err error) error {
	if !errors.Is(err, errMixed) {
		return err
	}
	if _, writeErr := conn.Write(refusal()); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	return err
}

// mixed makes the error of a handshake errMixed if the other end answered in the
// clear.
func mixed(err error) error {
	var record tls.RecordHeaderError
	if errors.As(err, &record) && strings.HasPrefix(helloMagic, string(record.RecordHeader[:])) {
		return fmt.Errorf("%w: %w", errMixed, err)
	}
	return err
}

// The directions of a connection.
const (
	incoming = iota
	outgoing
	directions
)

// The causes that are told apart, so that one does not hide another.
const (
	causeMixed = iota
	causeTheirs
	causeOurs
	causeTLS
	causes
)

// advice is what to do about each cause.
var advice = [causes]string{
	causeMixed:  "only one of the two uses it",
	causeTheirs: "its certificate is not accepted here: has it ended, did an authority of cluster.tls.ca sign it, and is it for the name that the broker is reached by?",
	causeOurs:   "the certificate of this broker is not accepted there: has it ended, did an authority of the other broker's cluster.tls.ca sign it, and is it for the name of cluster.advertised?",
	causeTLS:    "the handshake did not come about",
}

// complaints are when each cause was told last, in ns.
type complaints [directions][causes]atomic.Int64

// tellEvery is the least time between two complaints of one cause and direction.
const tellEvery = 30 * time.Second

// tellTLS complains now and then of what TLS, or the lack of it, refused: whoever
// waits for the stream only sees that there is none.
func (l *Link) tellTLS(direction int, addr string, err error) {
	cause, ok := causeOf(err)
	if !ok {
		return
	}
	told := &l.told[direction][cause]
	now, last := time.Now().UnixNano(), told.Load()
	if now-last < int64(tellEvery) || !told.CompareAndSwap(last, now) {
		return
	}
	text := "cluster port: TLS with a broker that connected failed: "
	if direction == outgoing {
		text = "cluster port: TLS with a broker failed: "
	}
	l.opts.Logger.Warn(text+advice[cause], "peer", addr, "error", err)
}

// causeOf says what TLS had against a connection; false if it was something else, or
// the connection itself.
func causeOf(err error) (cause int, ok bool) {
	var refused *Refused
	var verification *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case err == nil:
		return 0, false
	case errors.Is(err, errMixed), errors.As(err, &refused) && refused.Reason == errMixed.Error():
		return causeMixed, true
	case errors.As(err, &op) && op.Op == "remote error": // an alert
		return causeOurs, true
	case errors.As(err, &verification), errors.As(err, &x509.HostnameError{}), strings.Contains(err.Error(), "tls: client didn't provide a certificate"):
		return causeTheirs, true
	case errors.As(err, &record), strings.Contains(err.Error(), "tls: "):
		return causeTLS, true
	}
	return 0, false
}
