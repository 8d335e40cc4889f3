package object

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"
)

const (
	// KeySize is the length of a master key, bytes (AES-256).
	KeySize = 32

	saltSize = 32
	tagSize  = 16
)

// KeyProvider names and finds the master keys that objects are encrypted with.
// Its methods may do I/O and are called without any lock.
type KeyProvider interface {
	// Current returns the key for new objects and the name to find it by later.
	Current(ctx context.Context) (id string, key []byte, err error)
	// Key returns the key that Current once gave under this name.
	Key(ctx context.Context, id string) ([]byte, error)
}

// newAEAD derives the object's own key. The salt is random for each build, so
// two builds under one object UUID still never share a (key, nonce) pair, and
// nonces can be plain chunk numbers.
func newAEAD(master []byte, salt []byte, object uuid.UUID) (cipher.AEAD, error) {
	if len(master) != KeySize {
		return nil, fmt.Errorf("object: encryption key has %d bytes, want %d", len(master), KeySize)
	}
	key, err := hkdf.Key(sha256.New, master, salt, "firn object v1 "+string(object[:]), KeySize)
	if err != nil {
		return nil, fmt.Errorf("object: derive key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("object: cipher: %w", err)
	}
	return cipher.NewGCM(block)
}

// nonceAndData returns the nonce and the additional data of a chunk: object
// UUID and chunk number, never the topic, since objects can be shared.
func nonceAndData(object uuid.UUID, chunk int) (nonce [12]byte, aad [20]byte) {
	binary.BigEndian.PutUint32(nonce[8:], uint32(chunk))
	copy(aad[:], object[:])
	binary.BigEndian.PutUint32(aad[16:], uint32(chunk))
	return nonce, aad
}
