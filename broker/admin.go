package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/firnlog/firn/broker/adminapi"
)

// AdminAddr is the bound address of the admin server, nil without one.
func (b *Broker) AdminAddr() net.Addr {
	if b.admin == nil {
		return nil
	}
	return b.admin.addr
}

// startAdmin serves the admin address from early on, so that a start that takes
// long can be watched.
func (b *Broker) startAdmin() error {
	if b.cfg.AdminAddress == "" {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", b.cfg.AdminAddress)
	if err != nil {
		return fmt.Errorf("admin.address: %w%s", err, bindAdvice(err))
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&metricsCollector{b: b})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", b.livez)
	mux.HandleFunc("GET /readyz", b.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET "+adminapi.PathTierStatus, b.whenReady(b.tierStatus))
	mux.HandleFunc("GET "+adminapi.PathTierMap, b.whenReady(b.tierMap))
	mux.HandleFunc("GET "+adminapi.PathTierVerify, b.whenReady(b.tierVerify))
	mux.HandleFunc("GET "+adminapi.PathClusterHealth, b.whenReady(b.serveHealth))
	mux.HandleFunc("GET "+adminapi.PathClusterBrokers, b.whenReady(b.serveBrokers))
	mux.HandleFunc("GET "+adminapi.PathClusterPlan, b.whenReady(b.servePlan))
	b.admin = newAdminServer(l, mux, defaultAdminLimits, b.log, func(err error) { b.fail(fmt.Errorf("admin server: %w", err)) })
	b.undo = append(b.undo, b.admin.stop)
	return nil
}

func (b *Broker) livez(w http.ResponseWriter, _ *http.Request) {
	writeText(w, http.StatusOK, "ok\n")
}

// at notes what a broker is at that does not serve, in words that follow "is".
func (b *Broker) at(stage string) { b.stage.Store(&stage) }

// readyz says whether clients are served, and why not.
func (b *Broker) readyz(w http.ResponseWriter, _ *http.Request) {
	if !b.ready.Load() {
		writeText(w, http.StatusServiceUnavailable, "not ready: "+*b.stage.Load()+"\n")
		return
	}
	if !b.cluster.beats.Lease().Valid() {
		writeText(w, http.StatusServiceUnavailable, "not ready: no lease: the metadata leader does not hear this broker\n")
		return
	}
	if failed := b.parts.Failed(); len(failed) > 0 {
		msg := fmt.Sprintf("not ready: %d partitions are offline\n", len(failed))
		for tp, err := range failed {
			msg += fmt.Sprintf("%s: %v\n", tp, err)
		}
		writeText(w, http.StatusServiceUnavailable, msg)
		return
	}
	writeText(w, http.StatusOK, "ok\n")
}

// whenReady keeps requests off what has not started.
func (b *Broker) whenReady(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !b.ready.Load() {
			writeError(w, http.StatusServiceUnavailable, fmt.Errorf("the broker is %s", *b.stage.Load()))
			return
		}
		f(w, r)
	}
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprint(w, text)
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, adminapi.Error{Message: err.Error()})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client is gone; nobody is left to tell
}
