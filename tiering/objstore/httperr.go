package objstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
)

// KindOfHTTP maps an answer of an S3-compatible server to a sentinel: by its
// error code where that says more than the status. Both drivers use it, so
// that they cannot disagree. Status 0 means that no answer came; an error with
// a status of success, that the answer broke off.
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
	case status < 300, status >= 500 && status != http.StatusNotImplemented,
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

// NoAnswer classifies a request that got no HTTP answer. Mistakes that time
// does not heal are told from a network that does.
func NoAnswer(err error) (hint string, kind error) {
	unknown, wrongName := x509.UnknownAuthorityError{}, x509.HostnameError{}
	record := tls.RecordHeaderError{}
	switch {
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/":
		return "the server speaks plain HTTP, not TLS: write endpoint=http://… (s3) or secure=false (minio)", ErrInvalid
	case errors.As(err, &unknown):
		return "the server's certificate is signed by an authority that this machine does not trust (AWS_CA_BUNDLE or SSL_CERT_FILE can name it)", ErrInvalid
	case errors.As(err, &wrongName):
		return "the server's certificate is for another name", ErrInvalid
	}
	return "", ErrTransient
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
