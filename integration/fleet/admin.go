package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/firnlog/firn/broker/adminapi"
)

// pollEvery is the pace at which states of other processes are looked at.
const pollEvery = 20 * time.Millisecond

// askLimit bounds one look at a broker that may be paused or cut off.
const askLimit = 2 * time.Second

// Get asks the broker's admin server for a path, whatever the status, for as long
// as a look at a broker may take.
func (b *Broker) Get(ctx context.Context, path string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	return b.Ask(ctx, path)
}

// Ask asks the broker's admin server for a path, whatever the status, for as long
// as the context lasts.
func (b *Broker) Ask(ctx context.Context, path string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.Admin+path, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	// A broker that is killed would leave kept connections broken.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: b.fleet.DialContext}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// GetJSON asks for a path that answers with JSON.
func (b *Broker) GetJSON(ctx context.Context, path string, into any) error {
	status, body, err := b.Get(ctx, path)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d: %s", status, body)
	}
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		return fmt.Errorf("fleet: broker %d: GET %s: %w", b.ID, path, err)
	}
	return nil
}

// AwaitReady waits until the broker says that it serves.
func (b *Broker) AwaitReady(ctx context.Context) error {
	return await(ctx, func(ctx context.Context) error {
		select {
		case <-b.Exited():
			return ended{fmt.Errorf("fleet: broker %d ended while it started: %v", b.ID, b.proc.cmd.ProcessState)}
		default:
		}
		return b.ready(ctx)
	})
}

// ready asks whether the broker serves.
func (b *Broker) ready(ctx context.Context) error {
	status, body, err := b.Get(ctx, "/readyz")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d: %s", status, body)
	}
	if err != nil {
		return fmt.Errorf("fleet: broker %d is not ready: %w", b.ID, err)
	}
	return nil
}

// ended is an error that waiting does not cure.
type ended struct{ error }

// await asks until check says nil, or the context ends.
func await(ctx context.Context, check func(context.Context) error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error // the reason, not that the look was cut short
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		var final ended
		if errors.As(err, &final) {
			return final.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

// Health asks the brokers that run until one answers.
func (f *Fleet) Health(ctx context.Context) (h adminapi.ClusterHealth, err error) {
	err = errors.New("fleet: no broker runs")
	for _, b := range f.Living() {
		if err = b.GetJSON(ctx, adminapi.PathClusterHealth, &h); err == nil {
			return h, nil
		}
	}
	return h, err
}

// wanted are the brokers that should run: those that were started, and not ended
// on purpose since.
func (f *Fleet) wanted() []*Broker {
	var all []*Broker
	for _, b := range f.Brokers {
		if b.proc != nil && !b.down {
			all = append(all, b)
		}
	}
	return all
}

// AwaitHealthy waits until every broker that should run serves, all of them say
// that the cluster is whole, and as many brokers are up. A broker that ended by
// itself ends the wait.
func (f *Fleet) AwaitHealthy(ctx context.Context) error {
	living := f.wanted()
	if len(living) == 0 {
		return errors.New("fleet: no broker runs")
	}
	err := await(ctx, func(ctx context.Context) error {
		for _, b := range living {
			select {
			case <-b.Exited():
				return ended{fmt.Errorf("fleet: broker %d ended: %v", b.ID, b.proc.cmd.ProcessState)}
			default:
			}
		}
		for _, b := range living {
			if err := b.ready(ctx); err != nil {
				return err
			}
			var h adminapi.ClusterHealth
			if err := b.GetJSON(ctx, adminapi.PathClusterHealth, &h); err != nil {
				return err
			}
			switch {
			case h.State != adminapi.HealthOK:
				return fmt.Errorf("broker %d says %s: %+v", b.ID, h.State, h.Reasons)
			case h.BrokersUp != len(living):
				return fmt.Errorf("broker %d says that %d brokers are up, and %d run", b.ID, h.BrokersUp, len(living))
			}
		}
		return living[0].enoughVoters(ctx)
	})
	if err != nil {
		return fmt.Errorf("fleet: the cluster is not whole: %w", err)
	}
	return nil
}

// voters is how many brokers vote on the metadata where there are as many.
const voters = 3

// enoughVoters asks whether the metadata has the voters that it should have: with
// fewer, the loss of one can end it.
func (b *Broker) enoughVoters(ctx context.Context) error {
	var all adminapi.ClusterBrokers
	if err := b.GetJSON(ctx, adminapi.PathClusterBrokers, &all); err != nil {
		return err
	}
	up, voting := 0, 0
	for _, x := range all.Brokers {
		if x.State == adminapi.BrokerUp {
			up++
			if x.Voter {
				voting++
			}
		}
	}
	if want := min(voters, up); up >= voters && voting < want {
		return fmt.Errorf("%d of %d brokers vote on the metadata", voting, want)
	}
	return nil
}

// Controller is the broker that leads the metadata, as another broker than those
// excluded says; nil while there is none.
func (f *Fleet) Controller(ctx context.Context, but ...*Broker) (*Broker, error) {
	var errs []error
next:
	for _, b := range f.Living() {
		for _, x := range but {
			if x == b {
				continue next
			}
		}
		var h adminapi.ClusterHealth
		err := b.GetJSON(ctx, adminapi.PathClusterHealth, &h)
		if err == nil {
			return f.Broker(h.Controller), nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
