package api

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// maxTopicName is the longest legal name, so that a directory of name and
// partition fits a file system.
const maxTopicName = 249

// validTopicName checks a name as Kafka does; the error is INVALID_TOPIC_EXCEPTION
// with the reason.
func validTopicName(name string) error {
	bad := func(format string, args ...any) error {
		return &withCode{kerr.InvalidTopicException, fmt.Errorf("Topic name is invalid: "+format, args...)}
	}
	switch {
	case name == "":
		return bad("the empty string is not allowed")
	case name == "." || name == "..":
		return bad("'%s' is not allowed", name)
	case len(name) > maxTopicName:
		return bad("the length of '%.32s…' is longer than the max allowed length %d", name, maxTopicName)
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return bad("'%.64s' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'", name)
		}
	}
	return nil
}

// internalTopics are those that Kafka knows as internal.
var internalTopics = map[string]bool{
	offsetsTopic: true, "__transaction_state": true, "__share_group_state": true,
}

const offsetsTopic = "__consumer_offsets"
