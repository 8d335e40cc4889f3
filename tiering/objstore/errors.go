package objstore

import (
	"context"
	"errors"
	"fmt"
)

// Sentinels that errors of a Store wrap. Use errors.Is.
var (
	// ErrNotExist: no object has the key, or the bucket itself is missing
	// (then the message says so).
	ErrNotExist = errors.New("object does not exist")
	// ErrExists: a conditional Put or Copy found the key taken.
	ErrExists = errors.New("object exists already")
	// ErrTransient: the store could not answer now: overload, a broken
	// connection, a time-out. Worth another attempt later.
	ErrTransient = errors.New("object store is unavailable for now")
	// ErrChecksum: bytes differ from their checksum or length. Another
	// attempt may help when a wire or a cache did the damage.
	ErrChecksum = errors.New("checksum mismatch")
	// ErrDenied: the store refuses these credentials. It needs a person.
	ErrDenied = errors.New("object store denies access")
	// ErrInvalid: the request cannot succeed as it is: a bad key, a range
	// past the end, an operation that this store does not implement.
	ErrInvalid = errors.New("invalid object store request")
)

// OpError is one failed operation. Its text names the operation, the store
// and the key, and what the driver met.
type OpError struct {
	Op    string // "put", "get", "head", "delete", "list", "copy"
	Store string // Store.String()
	Key   string
	Kind  error // one of the sentinels, or nil when Err is a context's error
	Err   error // the driver's error; may be nil
}

func (e *OpError) Error() string {
	s := e.Op + " " + e.Key + " in " + e.Store + ": "
	switch {
	case e.Err == nil:
		return s + e.Kind.Error()
	case e.Kind == nil:
		return s + e.Err.Error()
	}
	return fmt.Sprintf("%s%v: %v", s, e.Kind, e.Err)
}

// Unwrap gives both the sentinel and the driver's error to errors.Is and As.
func (e *OpError) Unwrap() []error {
	var errs []error
	if e.Kind != nil {
		errs = append(errs, e.Kind)
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}

// Retryable says whether the same call may succeed later without a person's
// help: transient failures, damaged bytes, and an attempt's own time-out. A
// cancelled context is not retryable.
func Retryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	return errors.Is(err, ErrTransient) || errors.Is(err, ErrChecksum) || errors.Is(err, context.DeadlineExceeded)
}
