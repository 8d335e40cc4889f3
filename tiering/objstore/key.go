package objstore

import (
	"fmt"
	"math"
)

// MaxKeyLen bounds a key in bytes; S3's own limit is 1024.
const MaxKeyLen = 1024

// ValidateKey refuses what would not be the same name in every store: a key
// is made of path segments joined by single slashes, each of ASCII letters,
// digits and "-_.=", none of them beginning with a dot (so none is "." or
// "..", and the fs driver's own files can never be named).
func ValidateKey(key string) error {
	if err := validatePath(key); err != nil {
		return err
	}
	if key == "" || key[len(key)-1] == '/' {
		return fmt.Errorf("%w: key %q is empty or ends in a slash", ErrInvalid, key)
	}
	return nil
}

// ValidatePrefix is ValidateKey for a listing's prefix, which may be empty or
// end anywhere.
func ValidatePrefix(prefix string) error { return validatePath(prefix) }

func validatePath(p string) error {
	if len(p) > MaxKeyLen {
		return fmt.Errorf("%w: key of %d bytes is longer than %d", ErrInvalid, len(p), MaxKeyLen)
	}
	for i := range len(p) {
		c := p[i]
		first := i == 0 || p[i-1] == '/'
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '=':
		case c == '.' && !first:
		case c == '/' && !first:
		default:
			return fmt.Errorf("%w: key %q has %q at byte %d (allowed: letters, digits, \"-_=\", \".\" but not first in a segment, single slashes between)",
				ErrInvalid, p, c, i)
		}
	}
	return nil
}

// ValidateRange checks the arguments of GetRange.
func ValidateRange(key string, off, length int64) error {
	if err := ValidateKey(key); err != nil {
		return err
	}
	if off < 0 || length < 0 || off > math.MaxInt64-length {
		return fmt.Errorf("%w: range at %d of %d bytes", ErrInvalid, off, length)
	}
	return nil
}
