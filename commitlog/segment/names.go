package segment

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/firnlog/firn/record"
)

// Suffixes of the files of a segment.
const (
	LogSuffix       = ".log"
	IndexSuffix     = ".index"
	TimeIndexSuffix = ".timeindex"
)

const nameDigits = 20

// Name is a file's name: the base offset in 20 digits and the suffix.
func Name(base record.Offset, suffix string) string {
	return fmt.Sprintf("%0*d%s", nameDigits, int64(base), suffix)
}

// ParseName splits a file name made by Name. It answers false for any other.
func ParseName(name string) (base record.Offset, suffix string, ok bool) {
	if len(name) <= nameDigits || name[nameDigits] != '.' {
		return 0, "", false
	}
	digits := name[:nameDigits]
	if strings.Trim(digits, "0123456789") != "" {
		return 0, "", false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, "", false
	}
	return record.Offset(n), name[nameDigits:], true
}
