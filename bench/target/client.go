// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/rpc/client"
)

var clientKind = Kind{
	Name: "client", Form: "client:HOST:PORT,…",
	Measures: "bucketring as a Go program reaches it: the client library follows the ring, asks the owner of a key directly, gathers calls that are made at the same time into batches, and asks again with the same request id when a node fails.",
	Leaves:   "The latencies contain those repetitions, so an error is what was left after up to three attempts; what one node does to one call is not seen.",
}

// library asks through the client library.
type library struct {
	base
	client *client.Client
}

func openClient(k *kind, rest string, o Options) (opened, error) {
	addrs := strings.Split(rest, ",")
	var errs []error
	for i, text := range addrs {
		if strings.HasPrefix(text, "unix:") {
			continue
		}
		var err error
		if addrs[i], err = only(k.Name, text, "6471", o); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c, err := client.Dial(client.Options{Addrs: addrs, TLS: o.TLS, Insecure: o.Insecure, Timeout: o.Timeout})
	if err != nil {
		return nil, err
	}
	return &library{base{k, k.Name + ":" + strings.Join(addrs, ","), o.Timeout}, c}, nil
}

func (l *library) describe() string { return "" }

// ready waits for the ring, and for connections to the members that may be asked.
func (l *library) ready(ctx context.Context) error {
	if _, err := l.client.Peek(ctx, client.Query{Key: readyKey}); err != nil {
		return err
	}
	s := l.client.Status()
	if !s.Following {
		return fmt.Errorf("no node sends the ring: %v", s.Err) //nolint:errorlint // it may be nil
	}
	for _, m := range s.Members {
		if m.IndirectReason == nil && !m.Direct {
			return fmt.Errorf("member %s at %s is not connected", m.Name, m.Address)
		}
	}
	return nil
}

// readyKey is the key whose limits are looked at to see whether a node answers.
const readyKey = "bench-ready"

// Check implements [bench.Target].
func (l *library) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	d, err := l.client.Check(ctx, client.Call{
		Key: c.Key, Tier: c.Tier, Model: c.Model, RequestID: c.ID,
		Requests: client.Int64(requests(c)), InputTokens: c.InputTokens, OutputTokens: c.OutputTokens,
	})
	if err != nil {
		return bench.Answer{}, withoutKey(err, c.Key)
	}
	return decided(d, 0)
}

// Reserve implements [bench.Target].
func (l *library) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	r, err := l.client.Reserve(ctx, client.Estimate{
		Key: c.Key, Tier: c.Tier, Model: c.Model, RequestID: c.ID,
		Requests: client.Int64(requests(c)), InputTokens: c.InputTokens, MaxOutputTokens: &c.MaxOutput,
		TTL: lease(c),
	})
	if err != nil {
		return bench.Answer{}, withoutKey(err, c.Key)
	}
	return decided(r.Decision, r.Granted())
}

// Settle implements [bench.Target].
func (l *library) Settle(ctx context.Context, u bench.Usage) (bench.Answer, error) {
	r := l.client.Reservation(u.Key, u.ID)
	used := client.Usage{InputTokens: &u.InputTokens, OutputTokens: &u.OutputTokens}
	report := r.Progress
	if u.Final {
		report = r.Settle
	}
	s, err := report(ctx, used)
	return bench.Answer{Route: string(s.Route), Owner: s.Owner}, withoutKey(err, u.Key)
}

// withoutKey is an error of the library without what it was doing for whom, so that
// failures of one kind are counted together.
func withoutKey(err error, key string) error {
	if inner := errors.Unwrap(err); inner != nil && strings.Contains(err.Error(), " "+key+": ") {
		return inner
	}
	return err
}

// Used implements [bench.Left].
func (l *library) Used(ctx context.Context, key, tier, model string) ([]bench.Used, error) {
	s, err := l.client.Peek(ctx, client.Query{Key: key, Tier: tier, Model: model})
	if err != nil {
		return nil, err
	}
	list := make([]bench.Used, len(s.Limits))
	for i, state := range s.Limits {
		list[i] = bench.Used{
			Scope: state.Scope, Dimension: state.Dimension, Name: state.Name,
			Used: state.Capacity - state.Remaining + state.Debt, Limit: state.Capacity,
		}
	}
	return list, nil
}

// Close implements [bench.Target].
func (l *library) Close() error { return l.client.Close() }

func decided(d client.Decision, granted int64) (bench.Answer, error) {
	outcome, err := outcomeOf(string(d.Outcome))
	return bench.Answer{
		Outcome: outcome, Reason: string(d.Reason), ID: d.RequestID, Granted: granted,
		Route: string(d.Route), Owner: d.Owner, Replayed: d.Replayed,
	}, err
}

// outcomeOf reads an outcome as bucketring says it.
func outcomeOf(word string) (bench.Outcome, error) {
	switch word {
	case "allowed":
		return bench.Allowed, nil
	case "degraded":
		return bench.Degraded, nil
	case "denied":
		return bench.Denied, nil
	}
	return 0, fmt.Errorf("outcome %q is not known", word)
}

const (
	usualLease   = 30 * time.Second // of bucketring
	longestLease = time.Hour
)

// lease is how long a reservation has to live between two reports of its call, with
// as much time again for a report that is late. 0: the usual lease is enough.
func lease(c *bench.Call) time.Duration {
	silent := c.Hold / time.Duration(max(c.Reports, 0)+1)
	if silent <= usualLease/2 {
		return 0
	}
	if silent >= longestLease/2 {
		return longestLease
	}
	return 2 * silent
}
