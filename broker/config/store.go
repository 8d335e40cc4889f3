package config

import "github.com/firnlog/firn/tiering/objstore/location"

// ownStore is the identity of the object store below data.dir, which moves with it.
const ownStore = "data.dir"

// StoreIdentity names where the cluster's tiered data lies, whatever the way to it:
// endpoint, driver and credentials may change, bucket and prefix may not. Empty
// without an object store, and for one in memory, which forgets.
func (c *Config) StoreIdentity() string {
	if !c.RemoteEnable || c.StoreURL == "" {
		return ""
	}
	if c.Static["object.store.url"] == "" {
		return ownStore
	}
	l, err := location.Parse(c.StoreURL)
	if err != nil {
		panic("config: a URL that Load let pass: " + err.Error())
	}
	switch l.Driver {
	case "mem":
		return ""
	case "fs":
		return "fs:" + l.Dir
	}
	if l.Prefix != "" {
		return "bucket:" + l.Bucket + "/" + l.Prefix
	}
	return "bucket:" + l.Bucket
}

// SharedStore is StoreIdentity where other nodes have the same one, else empty.
func (c *Config) SharedStore() string {
	if id := c.StoreIdentity(); id != ownStore {
		return id
	}
	return ""
}
