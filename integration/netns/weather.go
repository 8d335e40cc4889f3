package netns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Weather is what becomes of packets on their way. The zero value is fine weather:
// nothing happens to them.
type Weather struct {
	// Loss is the part of the packets that is lost, from 0 to 1.
	Loss float64
	// Delay is how long each takes, and Jitter by how much more at the most, drawn for
	// each. Packets do not overtake one another.
	Delay, Jitter time.Duration
}

// sky passes packets through this process: the kernels that this runs on need not
// have netem. Ways with weather lead through a TUN device of the router, from which
// one goroutine reads; what it does not drop another one of the way's writes back,
// when it is due.
type sky struct {
	tun          *os.File
	ctx          context.Context // ends with the network
	stop         context.CancelFunc
	running      sync.WaitGroup
	passed, lost atomic.Int64

	mu   sync.Mutex
	ways map[addresses]*way
}

// addresses are a packet's source and destination, as it has them.
type addresses [8]byte

func (d direction) addresses() (a addresses) {
	from, to := d.from.Addr.As4(), d.to.Addr.As4()
	copy(a[:4], from[:])
	copy(a[4:], to[:])
	return a
}

// way is a direction with weather. Only the reader touches last.
type way struct {
	weather Weather
	queue   chan packet // closed when the weather is fine again
	last    time.Time   // that a packet is due
}

type packet struct {
	data []byte
	due  time.Time
}

const (
	skyDevice = "weather"
	skyTable  = "77" // of routes that lead there
	// skyQueue is how many packets of a way are delayed; further ones are lost.
	skyQueue = 4096
	// skyPacket is more than the largest packet: the device's MTU is 1500.
	skyPacket = 4096
)

// openSky makes the router's device.
func openSky(hub space) (*sky, error) {
	ctx, stop := context.WithCancel(context.Background())
	s := &sky{ctx: ctx, stop: stop, ways: map[addresses]*way{}}
	err := hub.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%w: open /dev/net/tun: %w", ErrCannot, err)
		}
		req, err := unix.NewIfreq(skyDevice)
		if err == nil {
			req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%w: make a TUN device: %w", ErrCannot, err), unix.Close(fd))
		}
		s.tun = os.NewFile(uintptr(fd), skyDevice)
		return nil
	})
	if err != nil {
		stop()
		return nil, err
	}
	if err := hub.run(nil, "ip link set "+skyDevice+" up", "ip route add default dev "+skyDevice+" table "+skyTable); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.running.Go(s.read)
	return s, nil
}

// close ends the goroutines; what is delayed is lost.
func (s *sky) close() error {
	s.stop()
	err := s.tun.Close()
	s.mu.Lock()
	for _, w := range s.ways {
		close(w.queue)
	}
	clear(s.ways)
	s.mu.Unlock()
	s.running.Wait()
	return err
}

// read takes packets from the device until it is closed.
func (s *sky) read() {
	buf := make([]byte, skyPacket)
	for {
		n, err := s.tun.Read(buf)
		if err != nil {
			return
		}
		if n < 20 || buf[0]>>4 != 4 {
			continue // the kernel's own IPv6
		}
		if !s.take(addresses(buf[12:20]), buf[:n]) {
			s.write(buf[:n])
		}
	}
}

// take drops a packet, or queues a copy of it; it is false where the weather is fine
// by now.
func (s *sky) take(a addresses, data []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.ways[a]
	if w == nil {
		return false
	}
	if rand.Float64() < w.weather.Loss {
		s.lost.Add(1)
		return true
	}
	due := time.Now().Add(w.weather.Delay)
	if w.weather.Jitter > 0 {
		due = due.Add(rand.N(w.weather.Jitter))
	}
	if due.Before(w.last) {
		due = w.last
	}
	w.last = due
	select {
	case w.queue <- packet{slices.Clone(data), due}:
	default:
		s.lost.Add(1)
	}
	return true
}

// deliver writes a way's packets when they are due.
func (s *sky) deliver(w *way) {
	for p := range w.queue {
		if d := time.Until(p.due); d > 0 {
			pause(s.ctx, d)
		}
		if s.ctx.Err() != nil {
			return
		}
		s.write(p.data)
	}
}

// write gives a packet back to the router. One that the device does not take is lost.
func (s *sky) write(data []byte) {
	if _, err := s.tun.Write(data); err != nil {
		s.lost.Add(1)
		return
	}
	s.passed.Add(1)
}

// set changes a way's weather; true where its packets have to be led here, or not any
// more.
func (s *sky) set(d direction, weather Weather) (reroute bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, fine := s.ways[d.addresses()], weather == Weather{}
	switch {
	case w == nil && fine:
		return false
	case w == nil:
		w = &way{weather: weather, queue: make(chan packet, skyQueue)}
		s.ways[d.addresses()] = w
		s.running.Go(func() { s.deliver(w) })
		return true
	case fine:
		delete(s.ways, d.addresses())
		close(w.queue)
		return true
	default:
		w.weather = weather
		return false
	}
}

// SetWeather says what becomes of packets from one node to another from now on.
func (n *Network) SetWeather(from, to *Node, w Weather) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.setWeatherLocked(direction{from, to}, w)
}

func (n *Network) setWeatherLocked(d direction, w Weather) error {
	if n.sky == nil {
		var err error
		if n.sky, err = openSky(n.hub); err != nil {
			return err
		}
	}
	if !n.sky.set(d, w) {
		return nil
	}
	verb := "add"
	if w == (Weather{}) {
		verb = "del"
		delete(n.weather, d)
	} else {
		n.weather[d] = true
	}
	// Only from the node's own device: what comes back from the sky goes on as always,
	// by the cuts.
	return n.hub.run(nil, fmt.Sprintf("ip rule %s from %s/32 to %s/32 iif %s lookup %s", verb, d.from.Addr, d.to.Addr, d.from.device, skyTable))
}

// ClearWeather makes the weather fine everywhere.
func (n *Network) ClearWeather() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, d := range slices.Collect(maps.Keys(n.weather)) {
		errs = append(errs, n.setWeatherLocked(d, Weather{}))
	}
	return errors.Join(errs...)
}

// Traffic is how many packets have gone through weather so far, and how many were
// lost in it.
func (n *Network) Traffic() (passed, lost int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sky == nil {
		return 0, 0
	}
	return n.sky.passed.Load(), n.sky.lost.Load()
}
