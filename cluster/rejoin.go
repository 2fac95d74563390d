// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// The rejoin loop is what heals a split: memberlist forgets members that were
// dead for half a minute, and never asks for them again.
const (
	joinEvery      = time.Second     // until the first contact
	rejoinEvery    = 5 * time.Second // from then on
	resolveTimeout = 2 * time.Second
)

func (c *Cluster) rejoin(ctx context.Context, list *memberlist.Memberlist, self netip.AddrPort) {
	known := contacts{tried: map[netip.AddrPort]attempt{}}
	joined := false
	for {
		reached, needed := c.rejoinOnce(ctx, list, self, &known)
		if !joined && (reached || !needed) {
			joined = true
			close(c.joined)
		}
		every := joinEvery
		if joined {
			every = rejoinEvery
		}
		timer := time.NewTimer(every*4/5 + rand.N(every*2/5)) // +-20 %, so that members don't ask in step
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// rejoinOnce asks a few of those that are missing. It reports whether one
// answered, and whether there was any need.
func (c *Cluster) rejoinOnce(ctx context.Context, list *memberlist.Memberlist, self netip.AddrPort, known *contacts) (reached, needed bool) {
	view := c.View()
	live := map[netip.AddrPort]bool{self: true}
	for _, m := range view.Members {
		live[m.Gossip] = true
	}
	for _, m := range view.Fenced {
		live[m.Gossip] = true
	}
	seeds, err := c.resolveSeeds(ctx)
	targets := known.choose(seeds, view.absent, live, time.Now())
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
		known.record(addr, errs[i] == nil, time.Now())
		c.metrics.rejoins[errs[i] == nil].Inc()
		reached = reached || errs[i] == nil
	}
	needed = len(targets) > 0 || err != nil && len(live) == 1
	missed := err != nil && len(live) == 1
	for _, addr := range targets {
		missed = missed || !view.left(addr)
	}
	c.noteContact(reached, missed, errors.Join(err, errors.Join(errs...)))
	return reached, needed
}

// noteContact remembers how a round went, and logs when nobody can be reached
// any more and when that is over. Nobody is missed who said goodbye.
func (c *Cluster) noteContact(reached, missed bool, err error) {
	problem := ""
	if missed && !reached && err != nil {
		problem = oneLine(err)
	}
	c.mu.Lock()
	before, never := c.mu.contact.problem, c.mu.contact.last.IsZero()
	c.mu.contact.problem = problem
	if reached {
		c.mu.contact.last = time.Now()
	}
	c.mu.Unlock()
	switch {
	case before == "" && problem != "" && never:
		c.log.Info("no member answers yet, trying on", "error", problem)
	case before == "" && problem != "":
		c.log.Warn("cannot reach any of the members that are missing, trying on", "error", problem)
	case before != "" && problem == "":
		c.log.Info("members that are missing can be reached again")
	}
}

// oneLine is the text of err, whose parts memberlist puts on lines of their own.
func oneLine(err error) string {
	var parts []error
	switch e := err.(type) {
	case interface{ WrappedErrors() []error }: // of memberlist
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

// resolveSeeds looks all seeds up. The error is about those that failed.
func (c *Cluster) resolveSeeds(ctx context.Context) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var addrs []netip.AddrPort
	var failed []error
	for _, seed := range c.options.Seeds {
		host, port, err := splitSeed(seed)
		if err != nil {
			return nil, err // never: they are valid
		}
		ips, err := c.resolve(ctx, host)
		if err != nil {
			failed = append(failed, fmt.Errorf("look up seed %s: %w", seed, err))
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
