package broker

import (
	"fmt"
	"log/slog"
	"strconv"

	"github.com/grafana/pyroscope-go"
)

// pyroscopeLog passes the profiler's words on.
type pyroscopeLog struct{ log *slog.Logger }

func (l pyroscopeLog) Infof(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l pyroscopeLog) Debugf(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l pyroscopeLog) Errorf(format string, args ...any) { l.log.Warn(fmt.Sprintf(format, args...)) }

// startProfiles sends profiles to Pyroscope, where an address is configured. The
// profiler does without the garbage collections that it would otherwise force.
func (b *Broker) startProfiles() error {
	if b.cfg.PyroscopeAddress == "" {
		return nil
	}
	p, err := pyroscope.Start(pyroscope.Config{
		ApplicationName: b.cfg.PyroscopeApp, ServerAddress: b.cfg.PyroscopeAddress, DisableGCRuns: true,
		Tags:   map[string]string{"node": strconv.Itoa(int(b.cfg.ID)), "rack": b.cfg.Rack, "version": Version},
		Logger: pyroscopeLog{b.log.With("component", "pyroscope")},
	})
	if err != nil {
		return fmt.Errorf("pyroscope.address %s: %w", b.cfg.PyroscopeAddress, err)
	}
	b.undo = append(b.undo, func() {
		if err := p.Stop(); err != nil {
			b.log.Warn("stop profiler", "err", err)
		}
	})
	return nil
}
