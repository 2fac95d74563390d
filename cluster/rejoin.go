// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	joinInterval   = time.Second     // until the first contact
	rejoinInterval = 5 * time.Second // after that
	resolveTimeout = 2 * time.Second
)

// rejoin contacts missing members until ctx is done. It heals splits: memberlist
// drops members that were dead for half a minute and never contacts them again.
func (c *Cluster) rejoin(ctx context.Context, list *memberlist.Memberlist, self netip.AddrPort) {
	history := joinHistory{attempts: map[netip.AddrPort]attempt{}}
	joined := false
	for {
		reached, needed := c.rejoinOnce(ctx, list, self, &history)
		if !joined && (reached || !needed) {
			joined = true
			close(c.joined)
		}
		interval := joinInterval
		if joined {
			interval = rejoinInterval
		}
		timer := time.NewTimer(interval*4/5 + rand.N(interval*2/5)) // jitter of 20 %, to spread the load
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// rejoinOnce contacts up to maxJoinTargets missing seeds and members. It reports
// whether one answered, and whether any was missing.
func (c *Cluster) rejoinOnce(ctx context.Context, list *memberlist.Memberlist, self netip.AddrPort, history *joinHistory) (reached, needed bool) {
	view := c.View()
	live := view.live()
	live[self] = true
	seeds, err := c.resolveSeeds(ctx)
	targets := history.selectTargets(seeds, view.missing, live, time.Now())
	errs := make([]error, len(targets))
	var wg sync.WaitGroup
	for i, addr := range targets {
		wg.Go(func() { _, errs[i] = list.Join([]string{addr.String()}) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return false, true
	}
	for i, addr := range targets {
		history.record(addr, errs[i] == nil, time.Now())
		c.metrics.rejoins[errs[i] == nil].Inc()
		reached = reached || errs[i] == nil
	}
	alone := err != nil && len(live) == 1 // seeds are unknown, and no other member is
	needed = len(targets) > 0 || alone
	missing := slices.DeleteFunc(targets, view.left) // it is no problem if those do not answer
	c.recordContact(reached, alone, missing, errors.Join(err, errors.Join(errs...)))
	return reached, needed
}

// recordContact stores the result of a round for [Status], and logs when members
// become unreachable and reachable again.
func (c *Cluster) recordContact(reached, alone bool, missing []netip.AddrPort, err error) {
	problem := ""
	if (alone || len(missing) > 0) && !reached && err != nil {
		problem = oneLine(err)
	}
	c.mu.Lock()
	before, never := c.mu.contact.problem, c.mu.contact.last.IsZero()
	c.mu.contact.problem, c.mu.contact.missing = problem, missing
	if reached {
		c.mu.contact.last = time.Now()
	}
	c.mu.Unlock()
	switch {
	case before == "" && problem != "" && never:
		c.log.Info("no member has answered yet, retrying", "error", problem)
	case before == "" && problem != "":
		c.log.Warn("missing members cannot be reached, retrying", "error", problem)
	case before != "" && problem == "":
		c.log.Info("missing members can be reached again")
	}
}

// oneLine returns the text of err without line breaks between joined errors.
func oneLine(err error) string {
	var parts []error
	switch e := err.(type) {
	case interface{ WrappedErrors() []error }: // go-multierror, used by memberlist
		parts = e.WrappedErrors()
	case interface{ Unwrap() []error }:
		parts = e.Unwrap()
	default:
		return err.Error()
	}
	texts := make([]string, len(parts))
	for i, part := range parts {
		texts[i] = oneLine(part)
	}
	return strings.Join(texts, "; ")
}

// resolveSeeds resolves all seeds. The error has those that failed.
func (c *Cluster) resolveSeeds(ctx context.Context) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var addrs []netip.AddrPort
	var failed []error
	for _, seed := range c.options.Seeds {
		host, port, err := splitSeed(seed)
		if err != nil {
			return nil, err // impossible: Validate has checked them
		}
		ips, err := c.resolve(ctx, host)
		if err != nil {
			failed = append(failed, fmt.Errorf("resolve seed %s: %w", seed, err))
		}
		for _, ip := range ips {
			addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), port))
		}
	}
	return addrs, errors.Join(failed...)
}

func (c *Cluster) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	return c.options.Resolve(ctx, host)
}
