package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// minFrame is key, version and correlation id: no request is shorter.
const minFrame = 8

// header is a request header: v1, or v2 which adds tags.
type header struct {
	key, version  int16
	correlationID int32
	clientID      []byte // aliases the frame; empty for null
}

// parsePrefix reads what stands at the same place in every request header.
//
// REQUIRES: len(frame) ≥ minFrame.
func parsePrefix(frame []byte) header {
	return header{
		key:           int16(binary.BigEndian.Uint16(frame)),
		version:       int16(binary.BigEndian.Uint16(frame[2:])),
		correlationID: int32(binary.BigEndian.Uint32(frame[4:])),
	}
}

// parseRest reads the client id, a classic string even in flexible versions
// (KIP-482), skips header tags, and returns the body.
func (h *header) parseRest(frame []byte, flexible bool) (body []byte, err error) {
	w := walker{b: frame[minFrame:], maxMemory: decodeSlack, maxElements: 100}
	n, err := w.stringLength(false)
	if err != nil {
		return nil, fmt.Errorf("client id: %w", err)
	}
	if n > 0 {
		if n > len(w.b) {
			return nil, fmt.Errorf("client id: %w", errShort)
		}
		h.clientID = w.b[:n]
		w.b = w.b[n:]
	}
	if flexible {
		if err := w.tags(&noTags); err != nil {
			return nil, fmt.Errorf("header tags: %w", err)
		}
	}
	return w.b, nil
}

var noTags program // knows no tag, so all are skipped

// decode guards and decodes body. memory is what the result takes beside body;
// aliased tells whether it points into body.
func (e *apiEntry) decode(p *program, version int16, body []byte) (req kmsg.Request, memory int, aliased bool, err error) {
	memory, err = p.walk(body, e.MaxElements)
	if err != nil {
		return nil, 0, false, err
	}
	if e.Key == keyAPIVersions {
		return decodeAPIVersions(version, body), memory, false, nil
	}
	req = kmsg.RequestForKey(e.Key)
	req.SetVersion(version)
	if produce, ok := req.(*kmsg.ProduceRequest); ok {
		err = produce.UnsafeReadFrom(body)
		aliased = true
	} else {
		if p.aliases {
			body = append([]byte(nil), body...)
			memory += len(body)
		}
		err = req.ReadFrom(body)
	}
	if err != nil {
		return nil, 0, false, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return req, memory, aliased, nil
}

// decodeAPIVersions decodes by hand what anybody may send before
// authentication.
//
// REQUIRES: body passed the guard, so that reads cannot fail.
func decodeAPIVersions(version int16, body []byte) *kmsg.ApiVersionsRequest {
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version = version
	if version < 3 {
		return req
	}
	w := walker{b: body}
	text := func() *string {
		n, err := w.compactLength()
		if err != nil || n < 0 || n > len(w.b) {
			return nil
		}
		s := string(w.b[:n])
		w.b = w.b[n:]
		return &s
	}
	if s := text(); s != nil {
		req.ClientSoftwareName = *s
	}
	if s := text(); s != nil {
		req.ClientSoftwareVersion = *s
	}
	if version >= 5 {
		req.ClusterID = text()
		if len(w.b) >= 4 {
			req.NodeID = int32(binary.BigEndian.Uint32(w.b))
		}
	}
	return req
}

// appendFallback appends the answer to an ApiVersions request above our
// maximum, a whole frame: the layout of version 0, UNSUPPORTED_VERSION, and the
// range of ApiVersions alone (KIP-511). Clients ask again from that.
func appendFallback(dst []byte, correlationID int32, a *API) []byte {
	const unsupportedVersion = 35
	dst = binary.BigEndian.AppendUint32(dst, 4+2+4+6)
	dst = binary.BigEndian.AppendUint32(dst, uint32(correlationID))
	dst = binary.BigEndian.AppendUint16(dst, unsupportedVersion)
	dst = binary.BigEndian.AppendUint32(dst, 1)
	dst = binary.BigEndian.AppendUint16(dst, keyAPIVersions)
	dst = binary.BigEndian.AppendUint16(dst, uint16(a.Min))
	return binary.BigEndian.AppendUint16(dst, uint16(a.Max))
}

// appendResponseHeader appends room for the length and the response header: v1
// with an empty set of tags for flexible answers, except that ApiVersions
// always has v0, since its client may not know what we speak (KIP-511).
func appendResponseHeader(dst []byte, correlationID int32, key int16, flexible bool) []byte {
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(correlationID))
	if flexible && key != keyAPIVersions {
		dst = append(dst, 0)
	}
	return dst
}
