package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"time"

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
	// and may be kept (but for their unknown tags), though a byte field kept
	// keeps its whole frame.
	Body kmsg.Request
	// Size is the length of the frame in bytes, without its prefix.
	Size int32

	flexible bool

	// Guarded by Conn.mu.
	next   *Request // in order of arrival
	held   int64    // what counts against Conn.inFlightBytes
	memory int64    // reserved from the budget for the decoded body
	frame  *buffer  // what Body aliases, nil for nothing or after DoneWithBody
	inline bool     // the reader will send the answer after ServeKafka
	done   bool     // answered
	answer answer

	began time.Time // when the frame was decoded
}

// answer is what a request ended with: encoded, encoded and payload, close, or
// nothing for ReplyNone.
type answer struct {
	encoded *[]byte  // a whole frame, from answerPool
	payload *Payload // the rest of the frame, where encoded is its header
	close   error    // close instead of sending
	charged int64    // reserved from the budget for encoded
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
	// or are not needed any more. It may run on any goroutine, and must not
	// block.
	Release func()
}

func (p *Payload) size() int64 {
	var n int64
	for i := range p.Sections {
		if s := &p.Sections[i]; s.Range.File != nil {
			n += s.Range.Len
		} else {
			n += int64(len(s.Bytes))
		}
	}
	return n
}

// Context is cancelled when the connection closes or its peer was seen to go
// away. It is the same for all requests of a connection. An answer must be
// given all the same; it is dropped if it cannot be sent.
func (r *Request) Context() context.Context { return r.Conn.context() }

// Reply answers with resp, whose version is set to that of the request. It is
// encoded before Reply returns.
func (r *Request) Reply(resp kmsg.Response) {
	resp.SetVersion(r.Version)
	buf := answerPool.Get().(*[]byte)
	*buf = resp.AppendTo(appendResponseHeader(*buf, r.CorrelationID, r.Key, r.flexible))
	binary.BigEndian.PutUint32(*buf, uint32(len(*buf)-4))
	r.finish(answer{encoded: buf})
}

// ReplyRaw answers with a body encoded by the handler. Wire owns p from here
// on and calls its Release.
func (r *Request) ReplyRaw(p *Payload) {
	buf := answerPool.Get().(*[]byte)
	*buf = appendResponseHeader(*buf, r.CorrelationID, r.Key, r.flexible)
	size := int64(len(*buf)-4) + p.size()
	a := answer{encoded: buf, payload: p}
	if size > math.MaxInt32 {
		a.close = fmt.Errorf("answer of %d bytes to API key %d fits no frame", size, r.Key)
	}
	binary.BigEndian.PutUint32(*buf, uint32(size))
	r.finish(a)
}

// ReplyNone ends a request that has no answer (Produce with acks=0).
func (r *Request) ReplyNone() { r.finish(answer{}) }

// CloseConn closes the connection in place of an answer, once earlier requests
// were answered. err says why; it is logged.
func (r *Request) CloseConn(err error) {
	if err == nil {
		err = errByHandler
	}
	r.finish(answer{close: err})
}

var errByHandler = errors.New("closed by the handler")

// DoneWithBody gives the frame's buffer back before the answer: Body must not
// be touched any more. Every answer implies it.
func (r *Request) DoneWithBody() {
	c := r.Conn
	c.mu.Lock()
	frame := r.takeFrameLocked()
	c.mu.Unlock()
	if frame != nil {
		frame.release()
	}
}

// takeFrameLocked makes the caller own the request's reference to its frame.
func (r *Request) takeFrameLocked() *buffer {
	frame := r.frame
	if frame != nil {
		r.frame = nil
		held := int64(r.Size)
		r.held -= held
		r.Conn.inFlightBytes.Add(-held)
		r.Conn.pokeIfRoomLocked()
	}
	return frame
}

// smallAnswer is the size from which unsent answers count against the budget.
const smallAnswer = 4 << 10

// finish records the answer and, unless the reader is about to send it itself,
// starts the writer when it is this answer's turn.
func (r *Request) finish(a answer) {
	c := r.Conn
	s := c.srv
	if a.encoded != nil && cap(*a.encoded) > smallAnswer {
		a.charged = int64(cap(*a.encoded))
		c.budget.force(a.charged)
	}
	c.mu.Lock()
	if r.done {
		c.mu.Unlock()
		a.drop(c.budget)
		s.opts.Logger.Error("request answered twice", "key", r.Key, "version", r.Version, "stack", string(debug.Stack()))
		return
	}
	r.done = true
	s.counters.latency[r.Key].observe(time.Since(r.began))
	if a.close != nil {
		c.closing.Store(true)
	}
	frame := r.takeFrameLocked()
	memory := r.memory
	r.memory = 0
	dropped := c.closed
	start := false
	if !dropped {
		r.answer = a
		if !r.inline && c.head == r && !c.writing {
			c.writing = true
			start = true
			// Under mu and before closed: Shutdown still waits for the reader.
			s.goroutines.Add(1)
		}
	}
	c.mu.Unlock()

	if frame != nil {
		frame.release()
	}
	if memory > 0 {
		c.budget.release(memory)
	}
	s.counters.inFlight.Add(-1)
	if dropped {
		a.drop(c.budget)
	}
	if start {
		go c.write()
	}
}

// drop lets go of what an answer holds, sent or not.
func (a *answer) drop(b *budget) {
	if a.payload != nil && a.payload.Release != nil {
		a.payload.Release()
	}
	if a.encoded != nil {
		if a.charged > 0 {
			b.release(a.charged)
		}
		putAnswer(a.encoded)
	}
	*a = answer{}
}
