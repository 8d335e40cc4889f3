package objstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/tiering/objstore"
)

func TestKindOfHTTP(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   error
	}{
		{0, "", objstore.ErrTransient},
		{200, "", objstore.ErrTransient}, // the answer broke off
		{404, "NoSuchKey", objstore.ErrNotExist},
		{404, "NoSuchBucket", objstore.ErrNotExist},
		{404, "", objstore.ErrNotExist},
		{412, "PreconditionFailed", objstore.ErrExists},
		{412, "", objstore.ErrExists},
		{409, "ConditionalRequestConflict", objstore.ErrTransient},
		{409, "", objstore.ErrTransient},
		{503, "SlowDown", objstore.ErrTransient},
		{503, "", objstore.ErrTransient},
		{500, "InternalError", objstore.ErrTransient},
		{429, "", objstore.ErrTransient},
		{400, "RequestTimeout", objstore.ErrTransient},
		{403, "RequestTimeTooSkewed", objstore.ErrTransient},
		{400, "BadDigest", objstore.ErrChecksum},
		{400, "XAmzContentChecksumMismatch", objstore.ErrChecksum},
		{400, "IncompleteBody", objstore.ErrChecksum},
		{403, "AccessDenied", objstore.ErrDenied},
		{403, "SignatureDoesNotMatch", objstore.ErrDenied},
		{401, "", objstore.ErrDenied},
		{416, "InvalidRange", objstore.ErrInvalid},
		{400, "MalformedXML", objstore.ErrInvalid},
		{501, "NotImplemented", objstore.ErrInvalid},
		{301, "PermanentRedirect", objstore.ErrInvalid},
	} {
		require.Equal(t, c.want, objstore.KindOfHTTP(c.status, c.code), "%d %s", c.status, c.code)
	}
}
