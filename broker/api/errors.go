package api

import (
	"context"
	"errors"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// kafkaErrors maps the domain's sentinels to Kafka's errors. What is already a
// *kerr.Error anywhere in the chain needs no row.
var kafkaErrors = []struct {
	is   error
	kafk *kerr.Error
}{
	{record.ErrTooLarge, kerr.MessageTooLarge},
	{record.ErrInvalidTimestamp, kerr.InvalidTimestamp},
	{record.ErrUnsupportedCodec, kerr.UnsupportedCompressionType},
	{record.ErrInvalidRecord, kerr.InvalidRecord},
	{record.ErrCorrupt, kerr.CorruptMessage},
	{record.ErrTruncated, kerr.CorruptMessage},
	{command.ErrNotLeader, kerr.NotLeaderForPartition},
	{command.ErrStaleLeaderEpoch, kerr.NotLeaderForPartition},
	// No metadata leader, or one that did not answer in time: this broker forwards,
	// so a client has nobody else to ask (never NOT_CONTROLLER).
	{metadata.ErrNotLeader, kerr.RequestTimedOut},
	{metadata.ErrUnknownOutcome, kerr.RequestTimedOut},
	{command.ErrConflict, kerr.RequestTimedOut},
	{context.DeadlineExceeded, kerr.RequestTimedOut},
	{context.Canceled, kerr.RequestTimedOut},
}

// codeOf is the Kafka error code for err, 0 for nil. What nobody foresaw is
// UNKNOWN_SERVER_ERROR, which clients do not retry: the caller logs it.
func codeOf(err error) int16 {
	if err == nil {
		return 0
	}
	var k *kerr.Error
	if errors.As(err, &k) {
		return k.Code
	}
	for _, row := range kafkaErrors {
		if errors.Is(err, row.is) {
			return row.kafk.Code
		}
	}
	return kerr.UnknownServerError.Code
}

// messageOf is the text for an answer's error message field: nil without an
// error, our own words where there are some, else Kafka's.
func messageOf(err error) *string {
	if err == nil {
		return nil
	}
	var k *kerr.Error
	if e, ok := err.(*kerr.Error); ok { //nolint:errorlint // a wrapped one has words of its own
		return &e.Description
	}
	msg := err.Error()
	if errors.As(err, &k) {
		// The code says what the error is; the text need not say it again.
		msg = strings.TrimPrefix(msg, k.Error()+": ")
	}
	return &msg
}
