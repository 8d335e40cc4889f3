package config

import (
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/firnlog/firn/metadata/configdef"
)

// Listener is one address that clients connect to, with what they are told to
// connect to: behind a proxy or NAT these differ.
type Listener struct {
	Name string // upper case, unique
	// Address is HOST:PORT to bind. An empty host is every address; port 0 lets
	// the system choose.
	Address string
	// AdvertisedHost and AdvertisedPort are what Metadata answers on this
	// listener. Port 0 stands for the port that was bound.
	AdvertisedHost string
	AdvertisedPort int32
	// Security is PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
	Security string
}

var listenerName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// endpoint is NAME://HOST:PORT taken apart.
type endpoint struct {
	name, host string
	port       int32
}

func parseEndpoint(text string) (endpoint, error) {
	name, address, ok := strings.Cut(text, "://")
	if !ok || !listenerName.MatchString(name) {
		return endpoint{}, errors.New("NAME://HOST:PORT, such as PLAINTEXT://0.0.0.0:9092")
	}
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return endpoint{}, errors.New("NAME://" + wantAddress)
	}
	port, err := parsePort(portText)
	if err != nil {
		return endpoint{}, err
	}
	return endpoint{name: strings.ToUpper(name), host: host, port: port}, nil
}

const wantAddress = "HOST:PORT, with the port, and an IPv6 host in square brackets"

func parsePort(text string) (int32, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, errors.New("a port from 0 to 65535")
	}
	return int32(port), nil
}

// listenerSettings are the raw texts that listeners are made of.
type listenerSettings struct {
	listeners, advertised, security string
	hostname                        func() (string, error)
}

// parse returns the listeners, or what is wrong by the setting at fault.
func (s listenerSettings) parse() ([]Listener, []Problem) {
	if s.hostname == nil {
		s.hostname = os.Hostname
	}
	var problems []Problem
	wrong := func(key, got, want string) { problems = append(problems, Problem{Key: key, Got: got, Want: want}) }

	security := map[string]string{}
	for _, pair := range configdef.SplitList(s.security) {
		name, protocol, ok := strings.Cut(pair, ":")
		if !ok {
			wrong("listener.security.protocol.map", pair, "NAME:PROTOCOL")
			continue
		}
		security[strings.ToUpper(strings.TrimSpace(name))] = strings.ToUpper(strings.TrimSpace(protocol))
	}
	advertised := map[string]endpoint{}
	for _, text := range configdef.SplitList(s.advertised) {
		e, err := parseEndpoint(text)
		switch {
		case err != nil:
			wrong("advertised.listeners", text, err.Error())
		case e.host == "" || net.ParseIP(e.host).IsUnspecified():
			wrong("advertised.listeners", text, "an address that clients can reach")
		case advertised[e.name] != endpoint{}:
			wrong("advertised.listeners", text, "each listener once")
		default:
			advertised[e.name] = e
		}
	}
	var listeners []Listener
	byName, byAddress := map[string]bool{}, map[string]bool{}
	for _, text := range configdef.SplitList(s.listeners) {
		e, err := parseEndpoint(text)
		if err != nil {
			wrong("listeners", text, err.Error())
			continue
		}
		l := Listener{Name: e.name, Address: net.JoinHostPort(e.host, strconv.Itoa(int(e.port))), Security: security[e.name]}
		if l.Security == "" {
			l.Security = "PLAINTEXT"
		}
		switch {
		case byName[l.Name]:
			wrong("listeners", text, "each name once: "+l.Name+" is there twice")
			continue
		case byAddress[l.Address] && e.port != 0:
			wrong("listeners", text, "each address once: "+l.Address+" is there twice")
			continue
		case l.Security != "PLAINTEXT":
			wrong("listeners", text, fmt.Sprintf("a listener with the protocol PLAINTEXT: %s is not served yet", l.Security))
			continue
		}
		byName[l.Name], byAddress[l.Address] = true, true
		adv, ok := advertised[l.Name]
		if !ok {
			if adv, err = s.ownAddress(e); err != nil {
				wrong("listeners", text, "advertised.listeners to say what clients connect to, since the host's name cannot be read: "+err.Error())
				continue
			}
		}
		delete(advertised, l.Name)
		l.AdvertisedHost, l.AdvertisedPort = adv.host, adv.port
		listeners = append(listeners, l)
	}
	if len(listeners) == 0 && len(problems) == 0 {
		wrong("listeners", "nothing", "at least one listener, NAME://HOST:PORT")
	}
	for _, text := range configdef.SplitList(s.advertised) {
		e, err := parseEndpoint(text)
		if _, left := advertised[e.name]; err == nil && left && !byName[e.name] {
			wrong("advertised.listeners", text, "the name of one of the listeners")
		}
	}
	return listeners, problems
}

// ownAddress is what a listener advertises when nothing else is said: its own
// host, or the machine's name where it binds every address.
func (s listenerSettings) ownAddress(e endpoint) (endpoint, error) {
	if e.host != "" && !net.ParseIP(e.host).IsUnspecified() {
		return e, nil
	}
	host, err := s.hostname()
	if err != nil {
		return endpoint{}, err
	}
	e.host = host
	return e, nil
}
