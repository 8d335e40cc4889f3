package configdef

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
)

// GossipPort is where gossip listens unless told otherwise, and what an address
// of cluster.join means without a port.
const GossipPort = 7946

// GossipKey decodes gossip.key: base64 of 16, 24 or 32 bytes (AES-128, 192, 256).
// An empty text is no key. The error never shows the text.
func GossipKey(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("base64 of 16, 24 or 32 bytes, as `openssl rand -base64 32` writes it")
	}
	switch len(key) {
	case 16, 24, 32:
		return key, nil
	}
	return nil, fmt.Errorf("base64 of 16, 24 or 32 bytes, and this is %d: `openssl rand -base64 32` writes one", len(key))
}

func validGossipKey(value string) error {
	_, err := GossipKey(value)
	return err
}

// JoinAddress gives an address of cluster.join its port: HOST, HOST:PORT, an IPv6
// address bare or in square brackets.
func JoinAddress(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = text, strconv.Itoa(GossipPort)
		if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
			host = host[1 : len(host)-1]
		}
		if _, _, err := net.SplitHostPort(net.JoinHostPort(host, port)); err != nil {
			return "", errors.New("HOST or HOST:PORT")
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return "", fmt.Errorf("HOST or HOST:PORT of a peer's gossip, such as 10.0.0.1:%d", GossipPort)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "", errors.New("an address of a peer: " + host + " is every address of this machine")
	}
	return net.JoinHostPort(host, port), nil
}

func validJoin(value string) error {
	for _, address := range SplitList(value) {
		if _, err := JoinAddress(address); err != nil {
			return fmt.Errorf("%q: expected %w", address, err)
		}
	}
	return nil
}

// validReachable checks an address that others are told.
func validReachable(value string) error {
	if err := validHostPort(value); err != nil || value == "" {
		return err
	}
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() || port == "0" {
		return errors.New("expected an address and port that the other brokers can reach")
	}
	return nil
}

func password(name, doc string) *Key { return newKey(name, TypePassword, "", doc) }

// clusterKeys say how brokers find each other and talk among themselves.
func clusterKeys() []*Key {
	return []*Key{
		text("cluster.listen", "0.0.0.0:9094", "HOST:PORT where this node serves the other brokers: metadata and replication. Empty is a node that stays alone.").own().checked(validHostPort),
		text("cluster.advertised", "", "HOST:PORT that the other brokers connect to. Empty is the address of cluster.listen, with the host's name where that is every address.").own().checked(validReachable),
		list("cluster.join", "", "Gossip addresses of peers, HOST or HOST:PORT. One that is up suffices; a node that was in the cluster before needs none.").own().checked(validJoin),
		text("gossip.listen", "0.0.0.0:7946", "HOST:PORT, for UDP and TCP, where this node gossips with the other brokers.").own().checked(validHostPort),
		text("gossip.advertised", "", "HOST:PORT that the other brokers gossip to. Empty is the address of gossip.listen, or this machine's private address where that is every address.").own().checked(validReachable),
		password("gossip.key", "The key of gossip, the same on all brokers: base64 of 16, 24 or 32 bytes. Empty leaves gossip in the clear.").own().checked(validGossipKey),
		text("cluster.tls.cert", "", "PEM file of this node's certificate, and those between it and cluster.tls.ca. With it the brokers talk to each other under mutual TLS. The three files are read anew when they change: new connections go by them.").own(),
		text("cluster.tls.key", "", "PEM file of the private key of cluster.tls.cert.").own(),
		text("cluster.tls.ca", "", "PEM file of the authorities that the other brokers' certificates are verified by.").own(),
	}
}
