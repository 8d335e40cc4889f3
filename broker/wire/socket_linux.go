package wire

import "golang.org/x/sys/unix"

// What only Linux has.
const (
	// pollPeerClosed is the event that the peer closed its side.
	pollPeerClosed = unix.POLLRDHUP
	// sendMore says that more bytes follow at once.
	sendMore = unix.MSG_MORE
	// hasSendfile says that sendfile moves the offset that it is given, and fails
	// only where it sent nothing.
	hasSendfile = true
)
