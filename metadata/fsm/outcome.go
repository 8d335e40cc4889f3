package fsm

import "github.com/firnlog/firn/metadata/fsm/statepb"

// EncodeOutcome encodes an outcome for another node, in the versioned form in which
// results of requests are remembered. A refusal keeps its code and message.
func EncodeOutcome(o Outcome) ([]byte, error) {
	m, err := outcomeToProto(&o)
	if err != nil {
		return nil, err
	}
	return encodeValue(m)
}

// DecodeOutcome reads what EncodeOutcome wrote. The error wraps ErrUnknownVersion or
// ErrCorrupt of package command.
func DecodeOutcome(b []byte) (Outcome, error) {
	var m statepb.Request
	if err := decodeValue(b, &m); err != nil {
		return Outcome{}, err
	}
	return outcomeFromProto(&m)
}
