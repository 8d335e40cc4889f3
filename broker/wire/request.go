package wire

import (
	"context"
	"io"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Handler serves requests.
type Handler interface {
	// ServeKafka is called on the connection's reader goroutine in the order of
	// arrival. It must return quickly. It, or any goroutine later, answers r
	// exactly once by Reply, ReplyRaw, ReplyNone or CloseConn.
	ServeKafka(r *Request)
}

// Request is one request. Its exported fields are read-only.
type Request struct {
	Key, Version  int16
	CorrelationID int32
	ClientID      string // "" for null
	Conn          *Conn
	// Body is the decoded request. That of Produce aliases the frame's buffer,
	// strings and records alike, and must not be touched after DoneWithBody or
	// the answer: clone what stays. Bodies of other keys are garbage collected
	// and may be kept, though a byte field kept keeps its whole frame.
	Body kmsg.Request
	// Size is the length of the frame in bytes, without its prefix.
	Size int32
}

// File is an open file to send from. Both methods must stay valid until the
// payload's Release. vfs.File and segment files have them.
type File interface {
	io.ReaderAt
	// Fd is the descriptor, or ^uintptr(0) where there is none, in which case
	// ReadAt serves.
	Fd() uintptr
}

// FileRange is Len bytes of File from offset Off.
type FileRange struct {
	File     File
	Off, Len int64
}

// Section is a part of a Payload: Range where Range.File is set, else Bytes.
type Section struct {
	Bytes []byte
	Range FileRange
}

// Payload is the body of an answer that was encoded by the handler: everything
// after the response header.
type Payload struct {
	Sections []Section
	// Release, where set, is called exactly once, when the sections were sent
	// or are not needed any more. It may run on any goroutine.
	Release func()
}

// Context is cancelled when the connection closes or its peer was seen to go
// away. It is the same for all requests of a connection. An answer must be
// given all the same; it is dropped if it cannot be sent.
func (r *Request) Context() context.Context { return r.Conn.context() }

// Reply answers with resp, whose version is set to that of the request. It is
// encoded before Reply returns.
func (r *Request) Reply(resp kmsg.Response) {}

// ReplyRaw answers with a body encoded by the handler. Wire owns p from here
// on and calls its Release.
func (r *Request) ReplyRaw(p *Payload) {}

// ReplyNone ends a request that has no answer (Produce with acks=0).
func (r *Request) ReplyNone() {}

// CloseConn closes the connection in place of an answer, once earlier requests
// were answered. err says why; it is logged.
func (r *Request) CloseConn(err error) {}

// DoneWithBody gives the frame's buffer back before the answer: Body must not
// be touched any more. Every answer implies it.
func (r *Request) DoneWithBody() {}
