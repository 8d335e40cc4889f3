package objstore

import (
	"context"
	"errors"
	"net/http"
)

// KindOfHTTP maps an answer of an S3-compatible server to a sentinel: by its
// error code where that says more than the status. Both drivers use it, so
// that they cannot disagree. Status 0 means that no answer came.
func KindOfHTTP(status int, code string) error {
	switch code {
	case "NoSuchKey", "NoSuchBucket", "NotFound", "NoSuchUpload":
		return ErrNotExist
	case "PreconditionFailed":
		return ErrExists
	case "ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "RequestTimeTooSkewed",
		"SlowDown", "SlowDownRead", "SlowDownWrite", "XMinioServerNotInitialized":
		// A conflict (409) says that another conditional write is under way;
		// the answer is known on the next attempt.
		return ErrTransient
	case "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody":
		return ErrChecksum
	case "InvalidRange":
		return ErrInvalid
	}
	switch {
	case status == 0, status >= 500 && status != http.StatusNotImplemented,
		status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status == http.StatusConflict:
		return ErrTransient
	case status == http.StatusNotFound:
		return ErrNotExist
	case status == http.StatusPreconditionFailed:
		return ErrExists
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return ErrDenied
	}
	return ErrInvalid
}

// ContextErr returns err when it came of a context, else nil.
func ContextErr(err error) error {
	for _, c := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, c) {
			return c
		}
	}
	return nil
}
