package wire

import (
	"errors"
	"fmt"
	"time"
)

// handle parses a frame and serves it. An error closes the connection.
func (c *Conn) handle(frame []byte) error {
	s := c.srv
	h := parsePrefix(frame)
	api := s.opts.Table.entry(h.key) // not nil, as frameNeed found it
	p := api.at(h.version)
	r := &Request{
		Key:           h.key,
		Version:       h.version,
		CorrelationID: h.correlationID,
		Conn:          c,
		Size:          int32(len(frame)),
		began:         time.Now(),
	}
	if p == nil {
		if h.key == keyAPIVersions && h.version > api.Max {
			s.counters.requests[h.key].Add(1)
			c.serveRequest(r, fallback{&api.API})
			return nil
		}
		return refuse(closedUnsupported, "API key %d has no version %d", h.key, h.version)
	}
	body, err := h.parseRest(frame, p.flexible)
	if err != nil {
		return &closeError{closedMalformed, fmt.Errorf("API key %d version %d: %w", h.key, h.version, err)}
	}
	header := len(frame) - len(body)
	owner := c.reader.buf
	if h.key == keyProduce && owner.wasteful(len(frame)) {
		// The request is going to hold its buffer for as long as it is pending.
		size := bufferSize(len(body))
		c.budget.force(int64(size))
		owner = newBuffer(size, c.budget)
		defer owner.release()
		body = owner.b[:copy(owner.b, body)]
	}
	req, memory, aliased, err := api.decode(p, h.version, body)
	if errors.Is(err, errTrailing) {
		// Kafka ignores as many bytes as the header has.
		if n := p.length(body, api.MaxElements); len(body)-n <= header {
			req, memory, aliased, err = api.decode(p, h.version, body[:n])
		}
	}
	if err != nil {
		return &closeError{closedMalformed, fmt.Errorf("API key %d version %d: %w", h.key, h.version, err)}
	}
	// Clients send the same id each time; the comparison does not allocate.
	if rd := &c.reader; rd.clientID != string(h.clientID) {
		rd.clientID = string(h.clientID)
	}
	r.ClientID = c.reader.clientID
	r.Body = req
	r.flexible = p.flexible
	r.memory = int64(memory)
	r.held = int64(memory)
	if memory > 0 {
		c.budget.force(r.memory)
	}
	if aliased {
		owner.retain()
		r.frame = owner
		r.held += int64(r.Size)
	}
	s.counters.requests[h.key].Add(1)
	c.serveRequest(r, s.opts.Handler)
	return nil
}

// serveRequest queues r and serves it. If it was answered when ServeKafka
// returned and nothing was pending before it, its answer is sent from here,
// together with those of other requests that came in the same read.
func (c *Conn) serveRequest(r *Request, h Handler) {
	c.enqueue(r)
	c.srv.counters.inFlight.Add(1)
	h.ServeKafka(r)

	rd := &c.reader
	for flushed := false; ; flushed = true {
		c.mu.Lock()
		if !r.inline {
			c.mu.Unlock()
			return
		}
		if r.done {
			if c.popLocked() == nil { // closed meanwhile, and dropped
				c.mu.Unlock()
				return
			}
			c.mu.Unlock()
			break
		}
		if flushed || len(rd.deferred) == 0 {
			r.inline = false // whoever answers starts the writer
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		c.flushDeferred()
	}

	a := &r.answer
	if a.encoded == nil && a.close == nil {
		return
	}
	rd.deferred = append(rd.deferred, r)
	if a.encoded != nil {
		rd.deferredBytes += len(*a.encoded)
	}
	if a.close != nil || a.payload != nil || rd.deferredBytes >= maxDeferred || len(rd.deferred) >= maxBatch {
		c.flushDeferred()
	}
}

// flushDeferred sends the answers that waited for more from the same read.
func (c *Conn) flushDeferred() {
	rd := &c.reader
	if len(rd.deferred) == 0 {
		return
	}
	c.send(rd.deferred)
	clear(rd.deferred)
	rd.deferred = rd.deferred[:0]
	if cap(rd.deferred) > 4 {
		rd.deferred = nil
	}
	rd.deferredBytes = 0
}

// fallback answers ApiVersions above our maximum.
type fallback struct{ api *API }

func (f fallback) ServeKafka(r *Request) {
	buf := answerPool.Get().(*[]byte)
	*buf = appendFallback(*buf, r.CorrelationID, f.api)
	r.finish(answer{encoded: buf})
}
