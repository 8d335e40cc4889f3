package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// answerLimit bounds the wait for an answer. Kafka takes seconds to make its
	// internal topics on a busy machine.
	answerLimit = 30 * time.Second
	// silence is how long a request must stay unanswered to count as such.
	silence = 300 * time.Millisecond
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 64 << 20

	apiVersionsKey = 18
)

// fate is what became of a request.
type fate string

const (
	answered fate = "answered"
	closed   fate = "connection closed"
	silent   fate = "no answer"
)

// conn is one connection to a broker, spoken to without a client's help.
type conn struct {
	nc   net.Conn
	next int32 // correlation id
}

func dial(addr string) (*conn, error) {
	nc, err := (&net.Dialer{Timeout: answerLimit}).DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &conn{nc: nc}, nil
}

func (c *conn) close() { _ = c.nc.Close() }

// header begins a frame without its length.
func (c *conn) header(key, version int16, flexible bool, clientID *string) []byte {
	c.next++
	b := kbin.AppendInt16(nil, key)
	b = kbin.AppendInt16(b, version)
	b = kbin.AppendInt32(b, c.next)
	b = kbin.AppendNullableString(b, clientID)
	if flexible {
		b = append(b, 0)
	}
	return b
}

func (c *conn) write(frame []byte) error {
	_, err := c.nc.Write(append(kbin.AppendInt32(nil, int32(len(frame))), frame...))
	return err
}

// read returns the body of the next answer after its correlation id.
func (c *conn) read(wait time.Duration) ([]byte, fate, error) {
	if err := c.nc.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, closed, err
	}
	var size [4]byte
	if _, err := io.ReadFull(c.nc, size[:]); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, silent, nil
		}
		return nil, closed, nil // a finding, not a failure
	}
	n := int32(binary.BigEndian.Uint32(size[:]))
	if n < 4 || n > maxAnswer {
		return nil, closed, fmt.Errorf("answer of %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c.nc, body); err != nil {
		return nil, closed, fmt.Errorf("answer cut off: %w", err)
	}
	if id := int32(binary.BigEndian.Uint32(body)); id != c.next {
		return nil, answered, fmt.Errorf("answer to request %d, want %d", id, c.next)
	}
	return body[4:], answered, nil
}

// send sends one request and decodes its answer, nil unless it was answered.
func (c *conn) send(req kmsg.Request, version int16, clientID *string, wait time.Duration) (kmsg.Response, fate, error) {
	req.SetVersion(version)
	frame := c.header(req.Key(), version, req.IsFlexible(), clientID)
	if err := c.write(req.AppendTo(frame)); err != nil {
		return nil, closed, nil //nolint:nilerr // a closed connection is a finding, not a failure
	}
	body, f, err := c.read(wait)
	if err != nil || f != answered {
		return nil, f, err
	}
	resp := req.ResponseKind()
	if req.IsFlexible() && req.Key() != apiVersionsKey {
		if len(body) == 0 || body[0] != 0 {
			return nil, f, errors.New("the answer's header has tags, or none where it must have a count")
		}
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		return nil, f, fmt.Errorf("decode %T version %d: %w", resp, version, err)
	}
	return resp, f, nil
}
