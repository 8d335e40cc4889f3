package reclaim

import (
	"bytes"
	"testing"
)

// Whatever stands in the bucket: no panic, and what is read as a claim is
// written as the same claim.
func FuzzDecodeOwner(f *testing.F) {
	f.Add([]byte(`{"version":1,"generation":3,"claim":"q-Fn0XJmTHeZ1cZ_yNe4gA"}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"generation":-1,"claim":"\u0000"}`))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		claim, err := decodeOwner(b)
		if err != nil {
			return
		}
		again, err := decodeOwner(encodeOwner(claim))
		if err != nil || again != claim {
			t.Fatalf("%q is %+v, and then %+v, %v", b, claim, again, err)
		}
		if !bytes.HasSuffix(encodeOwner(claim), []byte("}\n")) {
			t.Fatal("a claim ends its line")
		}
	})
}
