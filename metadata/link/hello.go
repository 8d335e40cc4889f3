package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/google/uuid"
)

// The hello's fixed part and bounds; see the package comment.
const (
	helloMagic   = "FIRNLINK"
	helloVersion = 1
	helloFixed   = 8 + 2 + 1 + 1 + 2
	// maxHello bounds a whole hello, in bytes.
	maxHello = 1024
	// maxText bounds each text in it, in bytes.
	maxText = 255
)

// The two kinds of hello.
const (
	helloOpens   = 0 // the dialler's; the next byte is the Kind
	helloAccepts = 1
	helloRefuses = 2
)

// errHello says that the other side speaks no hello, or none that is understood;
// errNoHello that it says nothing.
var (
	errHello   = errors.New("no hello of firn")
	errNoHello = fmt.Errorf("no answer to the hello within %s", helloTime)
)

// Peer is what one side of a stream says of itself in its hello.
type Peer struct {
	// NodeID is the broker id, -1 if it has none yet.
	NodeID int32
	// DirectoryID names the data directory; a wiped one has another.
	DirectoryID uuid.UUID
	// ClusterID is empty while the node belongs to no cluster.
	ClusterID string
	// Version is the build's.
	Version string
	// Addr is where others reach the node's cluster port, host:port; empty if it
	// has none.
	Addr string
}

// String names the peer in logs.
func (p Peer) String() string { return fmt.Sprintf("node %d (%s)", p.NodeID, p.DirectoryID) }

// hello is one side's first message.
type hello struct {
	// what is helloOpens, helloAccepts or helloRefuses.
	what   byte
	kind   Kind
	peer   Peer
	reason string // of a refusal
}

// encodeHello encodes h. Texts longer than maxText bytes are cut: the reason of a
// refusal may be long, the others are checked by Open.
func encodeHello(h hello) []byte {
	b := []byte(helloMagic)
	b = binary.BigEndian.AppendUint16(b, helloVersion)
	b = append(b, h.what, byte(h.kind), 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(h.peer.NodeID))
	b = append(b, h.peer.DirectoryID[:]...)
	for _, text := range []string{h.peer.ClusterID, h.peer.Version, h.peer.Addr, h.reason} {
		text = cutText(text)
		b = append(b, byte(len(text)))
		b = append(b, text...)
	}
	binary.BigEndian.PutUint16(b[helloFixed-2:], uint16(len(b)-helloFixed))
	return b
}

// cutText cuts a text to maxText bytes, at a rune's edge.
func cutText(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// readHello reads one hello and not a byte more, so that the stream may be used
// raw afterwards.
func readHello(r io.Reader) (hello, error) {
	var buf [maxHello]byte
	n, err := io.ReadFull(r, buf[:helloFixed])
	if looksLikeTLS(buf[:n]) {
		return hello{}, fmt.Errorf("%w: %w", errHello, errMixed)
	}
	if err != nil {
		return hello{}, fmt.Errorf("%w: %w", errHello, err)
	}
	if string(buf[:8]) != helloMagic {
		return hello{}, fmt.Errorf("%w: it begins with %q", errHello, buf[:8])
	}
	n = int(binary.BigEndian.Uint16(buf[helloFixed-2:]))
	if helloFixed+n > maxHello {
		return hello{}, fmt.Errorf("%w: %d bytes, at most %d", errHello, helloFixed+n, maxHello)
	}
	if _, err := io.ReadFull(r, buf[helloFixed:helloFixed+n]); err != nil {
		return hello{}, fmt.Errorf("%w: %w", errHello, err)
	}
	return parseHello(buf[:helloFixed+n])
}

// parseHello reads a whole hello with good magic and length. Bytes after what this
// version knows are left to later versions.
func parseHello(b []byte) (hello, error) {
	version := binary.BigEndian.Uint16(b[8:])
	h := hello{what: b[10], kind: Kind(b[11])}
	if version < helloVersion {
		return hello{}, fmt.Errorf("%w: version %d", errHello, version)
	}
	if h.what > helloRefuses {
		return hello{}, fmt.Errorf("%w: type %d", errHello, h.what)
	}
	b = b[helloFixed:]
	if len(b) < 4+16 {
		return hello{}, fmt.Errorf("%w: cut off", errHello)
	}
	h.peer.NodeID = int32(binary.BigEndian.Uint32(b))
	copy(h.peer.DirectoryID[:], b[4:])
	b = b[4+16:]
	for _, text := range []*string{&h.peer.ClusterID, &h.peer.Version, &h.peer.Addr, &h.reason} {
		if len(b) == 0 || int(b[0]) > len(b)-1 {
			return hello{}, fmt.Errorf("%w: cut off", errHello)
		}
		if !utf8.Valid(b[1 : 1+b[0]]) {
			return hello{}, fmt.Errorf("%w: a text is not UTF-8", errHello)
		}
		*text = string(b[1 : 1+b[0]])
		b = b[1+int(b[0]):]
	}
	return h, nil
}
