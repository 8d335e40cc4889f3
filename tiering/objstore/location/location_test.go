package location_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/location"
)

func TestParse(t *testing.T) {
	for url, want := range map[string]location.Location{
		"fs:///var/lib/firn/objects": {Driver: "fs", Dir: "/var/lib/firn/objects"},
		"mem:":                       {Driver: "mem"},
		"s3://my-bucket":             {Driver: "s3", Bucket: "my-bucket"},
		"s3://my-bucket/team/firn?region=eu-central-1":              {Driver: "s3", Bucket: "my-bucket", Prefix: "team/firn", Region: "eu-central-1"},
		"s3://b-1?endpoint=http://127.0.0.1:9000":                   {Driver: "s3", Bucket: "b-1", Endpoint: "http://127.0.0.1:9000", PathStyle: true},
		"s3://b-1?endpoint=https://s3.example.com&path-style=false": {Driver: "s3", Bucket: "b-1", Endpoint: "https://s3.example.com"},
		"minio://127.0.0.1:9000/firn?secure=false":                  {Driver: "minio", Endpoint: "127.0.0.1:9000", Bucket: "firn"},
		"minio://minio.example.com/firn/a/b?region=x":               {Driver: "minio", Endpoint: "minio.example.com", Bucket: "firn", Prefix: "a/b", Region: "x", Secure: true},
	} {
		got, err := location.Parse(url)
		require.NoError(t, err, url)
		require.Equal(t, want, got, url)
		again, err := location.Parse(got.String())
		require.NoError(t, err, got.String())
		require.Equal(t, want, again, "%s by way of %s", url, got)
	}
}

// Each mistake is named, with what to write instead.
func TestMistakes(t *testing.T) {
	for url, hint := range map[string]string{
		"":                                 "it is empty; known forms: fs:///dir",
		"/data/objects":                    "for a directory write fs:///absolute/path",
		"./objects":                        "for a directory write fs:///absolute/path",
		"fs://data/objects":                "write fs:///data/objects with three slashes",
		"fs:data":                          "the directory must be absolute",
		"fs:///":                           "the root directory cannot be a store",
		"fs:///d?region=x":                 `unknown parameter "region": fs takes none`,
		"mem://x":                          `write "mem:" alone`,
		"gcs://bucket":                     `unknown scheme "gcs"; known forms`,
		"https://s3.example.com/b":         "write s3://BUCKET?endpoint=https://s3.example.com",
		"s3://":                            "it names no bucket: s3://BUCKET",
		"s3://localhost:9000/b":            "s3://BUCKET?endpoint=http://localhost:9000",
		"s3://My_Bucket":                   "lower-case letters",
		"s3://bbb?endpiont=x":              `unknown parameter "endpiont": s3 takes endpoint, region, path-style`,
		"s3://bbb?endpoint=localhost:9000": "endpoint needs a scheme: endpoint=https://HOST:PORT",
		"s3://bbb?endpoint=http://h/path":  "nothing more",
		"s3://bbb?path-style=maybe":        "write path-style=true or path-style=false",
		"s3://bbb?region=":                 `parameter "region" is empty`,
		"s3://bbb?region=a&region=b":       `parameter "region" is given twice`,
		"s3://bbb/a//b":                    "prefix",
		"s3://bbb#x":                       "#fragment",
		"minio:///bucket":                  "it names no host: minio://HOST:PORT/BUCKET",
		"minio://host:9000":                "it names no bucket: minio://HOST:PORT/BUCKET",
		"minio://host:9000/b?secure=no":    "bucket",
		"minio://host:9000/bbb?secure=no":  "write secure=true or secure=false",
		"minio://host:port/bbb":            "invalid port",
	} {
		_, err := location.Parse(url)
		require.ErrorIs(t, err, objstore.ErrInvalid, url)
		require.ErrorContains(t, err, hint, url)
	}
}

// A URL with a secret is refused, and the error does not repeat the secret.
func TestSecretsAreNotRepeated(t *testing.T) {
	for _, url := range []string{
		"s3://AKIA:hunter2@bucket", "minio://admin:hunter2@host:9000/bucket", "s3://AKIA:hunter2%zz@bucket",
		"s3://bbb?secret_key=hunter2", "s3://bbb?endpoint=https://u:hunter2@host", "minio://h/bbb?SecretKey=hunter2&x=%zz",
	} {
		_, err := location.Parse(url)
		require.ErrorIs(t, err, objstore.ErrInvalid, url)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestOpen(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	for _, url := range []string{"mem:", "fs://" + t.TempDir(), "s3://bbb?endpoint=http://127.0.0.1:1", "minio://127.0.0.1:1/bbb?secure=false"} {
		l, err := location.Parse(url)
		require.NoError(t, err)
		s, err := l.Open(t.Context(), location.Options{AccessKey: "someone", SecretKey: "hunter2"})
		require.NoError(t, err, url)
		require.NotContains(t, s.String(), "hunter2")
		if l.Driver == "s3" || l.Driver == "minio" { // nobody listens there
			_, err = s.Head(t.Context(), "k")
			require.ErrorIs(t, err, objstore.ErrTransient)
			require.NotContains(t, err.Error(), "hunter2")
		}
		require.NoError(t, s.Close())
	}
	l, err := location.Parse("s3://bbb")
	require.NoError(t, err)
	_, err = l.Open(t.Context(), location.Options{})
	require.ErrorContains(t, err, "add ?region=… to the URL or set AWS_REGION")
}

// A wrong scheme is a mistake to be told of, not an outage to wait out.
func TestPlainServerBehindTLSURL(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	addr := server.Listener.Addr().String()
	for url, hint := range map[string]string{"s3://bbb?endpoint=https://" + addr: "endpoint=http://", "minio://" + addr + "/bbb": "secure=false"} {
		l, err := location.Parse(url)
		require.NoError(t, err)
		s, err := l.Open(t.Context(), location.Options{AccessKey: "a", SecretKey: "b"})
		require.NoError(t, err)
		_, err = s.Head(t.Context(), "k")
		require.ErrorIs(t, err, objstore.ErrInvalid, url)
		require.ErrorContains(t, err, hint)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"fs:///a", "mem:", "s3://bbb/p?endpoint=http://h:1&path-style=false", "minio://h:1/bbb/p?secure=false", "s3://a:b@c", "://", "s3://%zz"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		l, err := location.Parse(raw)
		if err != nil {
			return
		}
		again, err := location.Parse(l.String())
		if err != nil || again != l {
			t.Fatalf("%q is %+v, whose form %q is %+v, %v", raw, l, l.String(), again, err)
		}
	})
}
