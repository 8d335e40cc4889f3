//go:build !linux

package wire

// What only Linux has: elsewhere poll tells of a dead connection, and of a closed side
// by POLLHUP alone, segments go out as they are, and files are copied.
const (
	pollPeerClosed = 0
	sendMore       = 0
	hasSendfile    = false
)
