package objstore

import (
	"errors"
	"fmt"
	"io"
)

// ExactBody gives exactly length bytes of a network body, as GetRange
// promises: an early end or a broken connection is ErrTransient, and errors
// are passed through wrap, which adds the operation. More bytes than asked
// for are left unread.
func ExactBody(body io.ReadCloser, length int64, wrap func(kind, err error) error) io.ReadCloser {
	return &exactBody{body: body, left: length, wrap: wrap}
}

type exactBody struct {
	body io.ReadCloser
	left int64
	wrap func(kind, err error) error
}

// Read implements io.Reader.
func (b *exactBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case err == nil || b.left == 0:
		return n, nil
	case ContextErr(err) != nil:
		return n, b.wrap(nil, err)
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("%w: %d bytes missing", io.ErrUnexpectedEOF, b.left)
	}
	return n, b.wrap(ErrTransient, err)
}

// Close closes the network body.
func (b *exactBody) Close() error { return b.body.Close() }
