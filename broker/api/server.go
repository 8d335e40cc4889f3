// Package api is where Kafka's messages meet Firn's own types: one file per API
// or per closely related few, each turning a kmsg request into calls of the
// domain packages and their results into a kmsg answer with Kafka's error codes.
//
// table.go is the one list of what is served. Handlers run on the connection's
// reader goroutine in the order of arrival and must not block: what waits for
// the metadata log or a disk goes through Server.slow.
package api

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/config"
	"github.com/firnlog/firn/broker/fetch"
	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// Options are what the handlers stand on. All fields are required.
type Options struct {
	Config     *config.Config
	Meta       metadata.Client
	Partitions *partition.Set
	Fetch      *fetch.Service
	Sessions   *fetch.Sessions
	Groups     *group.Coordinator
	Quorum     Quorum
	// Times finds offsets by time and epoch over both tiers.
	Times *fetch.Finder
	// Static are the broker's own settings by Kafka's names, as its file,
	// environment and flags have them.
	Static map[string]string
	Logger *slog.Logger
}

// Server answers Kafka requests. It is a wire.Handler.
type Server struct {
	Options
	routes     map[int16]*route
	advertised []kmsg.ApiVersionsResponseApiKey
	ids        producerIDs
	topics     topicMaker
	throttle   leaderThrottle

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New returns a server for the routes of table.go.
func New(o Options) *Server {
	all := routes()
	s := &Server{Options: o, routes: make(map[int16]*route, len(all)), advertised: advertise(all)}
	for i := range all {
		s.routes[all[i].key] = &all[i]
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.throttle.Throttle = fetch.NewThrottle()
	s.topics = topicMaker{s: s, making: make(map[string]struct{})}
	return s
}

// Close cancels what Server.slow has started and waits for it.
func (s *Server) Close() {
	s.cancel()
	s.wg.Wait()
}

// ServeKafka answers one request. wire has checked its key and version against
// the table already.
func (s *Server) ServeKafka(r *wire.Request) { s.routes[r.Key].serve(s, r) }

// slow runs f on a goroutine of its own, with a context that ends after timeout,
// or when the broker stops. A client that goes away does not end it: what was
// asked of the metadata log may already be decided.
func (s *Server) slow(timeout time.Duration, f func(ctx context.Context)) {
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, timeout)
		defer cancel()
		f(ctx)
	})
}

// current is an image that has every change which was answered before the call, at
// whichever broker: a change must not be refused for what another broker has already
// told its client. The metadata leader's own image is such a one, since it answers
// no change before it has it.
func (s *Server) current(ctx context.Context) *metadata.Image {
	img := s.Meta.Image()
	if img.ControllerID() == s.nodeID() {
		return img
	}
	if err := s.Meta.ReadBarrier(ctx); err != nil {
		// What is proposed next meets the same obstacle, and is answered with it.
		s.Logger.Debug("metadata is perhaps not current", "err", err)
	}
	return s.Meta.Image()
}

// on adapts a typed handler to the table.
func on[T kmsg.Request](f func(*Server, *wire.Request, T)) func(*Server, *wire.Request) {
	return func(s *Server, r *wire.Request) { f(s, r, r.Body.(T)) }
}

// nodeID is this broker's id.
func (s *Server) nodeID() int32 { return s.Config.ID }

// topicRef finds a topic by id where one is given, by name otherwise.
func topicRef(img *metadata.Image, name string, id record.TopicID) *metadata.Topic {
	if !id.IsZero() {
		return img.Topic(id)
	}
	return img.TopicByName(name)
}

// millis turns a client's timeout into a duration within what a request may
// take.
func millis(ms int32) time.Duration {
	return min(max(time.Duration(ms)*time.Millisecond, 0), 10*time.Minute)
}

// ptr returns a pointer to a copy of v.
func ptr[T any](v T) *T { return &v }
