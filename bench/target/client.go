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
	Name: "client", Syntax: "client:HOST:PORT,…",
	Measures:    "bucketring through its Go client library: the library follows the ring, sends each call to the owner of its key, batches concurrent calls, and retries with the same request id when a node fails.",
	Limitations: "The latencies include those retries, so an error is what remained after up to three attempts. It does not show what one node does with one call.",
}

// clientTarget uses the client library.
type clientTarget struct {
	base
	client *client.Client
}

func openClient(k *kind, rest string, o Options) (builtin, error) {
	addrs := strings.Split(rest, ",")
	var errs []error
	for i, text := range addrs {
		if strings.HasPrefix(text, "unix:") {
			continue
		}
		var err error
		if addrs[i], err = parseAddress(k.Name, text, "6471", o); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c, err := client.Dial(client.Options{Addrs: addrs, TLS: o.TLS, Insecure: o.Insecure, Timeout: o.Timeout, DialOptions: o.tokenOptions()})
	if err != nil {
		return nil, err
	}
	return &clientTarget{newBase(k, k.Name+":"+strings.Join(addrs, ","), o), c}, nil
}

func (l *clientTarget) describe() string { return "" }

// ready waits for the ring, and for connections to all members that are called directly.
func (l *clientTarget) ready(ctx context.Context) error {
	if _, err := l.client.Peek(ctx, client.Query{Key: probeKey}); err != nil {
		if _, answered := errors.AsType[*client.InvalidError](err); !answered { // a policy may have no tier for the key
			return err
		}
	}
	s := l.client.Status()
	if !s.Following {
		return fmt.Errorf("no node sent the ring: %v", s.Err) //nolint:errorlint // s.Err may be nil
	}
	for _, m := range s.Members {
		if m.IndirectReason == nil && !m.Direct {
			return fmt.Errorf("member %s at %s is not connected", m.Name, m.Address)
		}
	}
	return nil
}

// probeKey is the key that [Ready] peeks at.
const probeKey = "bench-ready"

// Check implements [bench.Target].
func (l *clientTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	d, err := l.client.Check(ctx, client.Call{
		Key: c.Key, Tier: c.Tier, Model: c.Model, RequestID: l.checkID(c),
		Requests: requests(c), InputTokens: c.InputTokens, OutputTokens: c.OutputTokens,
	})
	if err != nil {
		return bench.Answer{}, clientError(err, c.Key)
	}
	return fromDecision(d, 0)
}

// Reserve implements [bench.Target].
func (l *clientTarget) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	r, err := l.client.Reserve(ctx, client.Estimate{
		Key: c.Key, Tier: c.Tier, Model: c.Model, RequestID: c.ID,
		Requests: requests(c), InputTokens: c.InputTokens, MaxOutputTokens: &c.MaxOutputTokens,
		TTL: leaseFor(c),
	})
	if err != nil {
		return bench.Answer{}, clientError(err, c.Key)
	}
	return fromDecision(r.Decision, r.Granted())
}

// Settle implements [bench.Target].
func (l *clientTarget) Settle(ctx context.Context, u bench.Usage) (bench.Answer, error) {
	r := l.client.Reservation(u.Key, u.ID)
	used := client.Usage{InputTokens: &u.InputTokens, OutputTokens: &u.OutputTokens}
	report := r.Progress
	if u.Final {
		report = r.Settle
	}
	s, err := report(ctx, used)
	return bench.Answer{Route: string(s.Route), Owner: s.Owner}, withoutKey(err, u.Key)
}

// requests returns the number of requests of a call; nil stands for one.
func requests(c *bench.Call) *int64 {
	if c.Requests <= 1 && c.Requests >= 0 {
		return nil
	}
	return &c.Requests
}

// clientError converts the error of a check or reserve.
func clientError(err error, key string) error {
	if e, ok := err.(*client.OverloadedError); ok { // refused on arrival: the common case, without a search
		return refusedFor(e.RetryAfter)
	}
	if e, ok := errors.AsType[*client.OverloadedError](err); ok {
		return refusedFor(e.RetryAfter)
	}
	return withoutKey(err, key)
}

// withoutKey removes the operation and the key from an error of the library, so that
// failures with the same cause are counted together.
func withoutKey(err error, key string) error {
	if inner := errors.Unwrap(err); inner != nil && strings.Contains(err.Error(), " "+key+": ") {
		return inner
	}
	return err
}

// ReadUsage implements [bench.UsageReader].
func (l *clientTarget) ReadUsage(ctx context.Context, key, tier, model string) ([]bench.LimitUsage, error) {
	s, err := l.client.Peek(ctx, client.Query{Key: key, Tier: tier, Model: model})
	if err != nil {
		return nil, err
	}
	list := make([]bench.LimitUsage, len(s.Limits))
	for i, state := range s.Limits {
		list[i] = bench.LimitUsage{
			Scope: state.Scope, Dimension: state.Dimension, Name: state.Name,
			Used: state.Capacity - state.Remaining + state.Debt, Limit: state.Capacity,
		}
	}
	return list, nil
}

// Flush implements [bench.Flusher].
func (l *clientTarget) Flush(ctx context.Context) error { return l.client.Flush(ctx) }

// Close implements [bench.Target].
func (l *clientTarget) Close() error { return l.client.Close() }

// fromDecision converts a decision of the client library.
func fromDecision(d client.Decision, granted int64) (bench.Answer, error) {
	outcome, err := parseOutcome(string(d.Outcome))
	return bench.Answer{
		Outcome: outcome, Reason: string(d.Reason), ID: d.RequestID, GrantedOutputTokens: granted,
		Route: string(d.Route), Owner: d.Owner, Replayed: d.Replayed, Waited: d.Waited,
	}, err
}

// parseOutcome parses the name of an outcome in bucketring's API.
func parseOutcome(name string) (bench.Outcome, error) {
	switch name {
	case "allowed":
		return bench.Allowed, nil
	case "degraded":
		return bench.Degraded, nil
	case "denied":
		return bench.Denied, nil
	}
	return 0, fmt.Errorf("unknown outcome %q", name)
}

const (
	defaultLease = 30 * time.Second // of bucketring, if a reserve names none
	maxLease     = time.Hour
)

// leaseFor returns the time to live of the reservation of c: its own, or twice the time
// between two progress reports, so that a late report still renews it. 0 means the default.
func leaseFor(c *bench.Call) time.Duration {
	if c.Lease > 0 {
		return min(c.Lease, maxLease)
	}
	gap := c.Duration / time.Duration(max(c.ProgressReports, 0)+1)
	if gap <= defaultLease/2 {
		return 0
	}
	if gap >= maxLease/2 {
		return maxLease
	}
	return 2 * gap
}
