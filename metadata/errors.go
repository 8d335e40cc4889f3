package metadata

import "errors"

var (
	// ErrNotLeader says that this node does not lead the metadata and knows nobody
	// to forward to. The command was not applied.
	ErrNotLeader = errors.New("metadata: no leader")
	// ErrClosed says that the client was closed before the command was taken.
	ErrClosed = errors.New("metadata: closed")
	// ErrUnknownOutcome says that leadership or patience ended while a command was
	// under way: it may be applied or not.
	ErrUnknownOutcome = errors.New("metadata: outcome of the command is unknown")
)
