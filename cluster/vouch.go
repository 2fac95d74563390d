// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	vouchTimeout    = 3 * time.Second // of one attempt
	minVouchBackoff = 100 * time.Millisecond
	maxVouchBackoff = 2 * time.Second
	// vouchTroubled is after how many attempts a boot is a problem: a member that starts
	// may not answer yet.
	vouchTroubled = 5
	// maxUnvouched bounds the boots that wait, and so what a stranger with a gossip key can
	// cost.
	maxUnvouched = 64
)

// Unvouched is a boot that is alive in gossip, and in no view.
type Unvouched struct {
	Name    string         `json:"name"`
	Boot    ID             `json:"boot"`
	Address netip.AddrPort `json:"address"` // of its gRPC
	Problem string         `json:"problem"`
}

// claim is what is vouched for: one boot at one address.
type claim struct {
	gossipName string
	grpc       netip.AddrPort
}

func claimOf(m *Member) claim { return claim{m.gossipName(), m.GRPC} }

// vouchers withholds the events of boots until they are vouched for. Its methods are for
// one goroutine.
type vouchers struct {
	cluster *Cluster
	known   map[string]claim // vouched for, by gossip name, until they are down
	waiting map[string]*waitingBoot
	done    chan vouchResult
	running sync.WaitGroup
}

// waitingBoot is a boot that is not vouched for.
type waitingBoot struct {
	latest   Member
	attempts int
	cancel   context.CancelFunc
}

// vouchResult is the result of one attempt.
type vouchResult struct {
	boot  *waitingBoot
	claim claim
	err   error
}

func newVouchers(c *Cluster) *vouchers {
	return &vouchers{cluster: c, known: map[string]claim{}, waiting: map[string]*waitingBoot{}, done: make(chan vouchResult)}
}

// stop ends all attempts.
func (v *vouchers) stop() {
	for _, w := range v.waiting {
		w.cancel()
	}
	v.running.Wait()
}

// admit returns the events that may be used now.
func (v *vouchers) admit(ctx context.Context, events []event) (admitted []event) {
	o := &v.cluster.options
	if o.Vouch == nil {
		return events
	}
	for _, e := range events {
		name := e.member.gossipName()
		claimed, known := v.known[name]
		switch {
		case name == gossipName(o.Name, o.Boot.ID), known && e.kind == eventUp && claimed == claimOf(&e.member):
			admitted = append(admitted, e)
		case e.kind == eventDown:
			v.forget(name)
			if known {
				delete(v.known, name)
				admitted = append(admitted, e)
			}
		default:
			if known { // it claims another address
				delete(v.known, name)
				admitted = append(admitted, event{eventDown, e.member})
			}
			v.wait(ctx, e.member)
		}
	}
	v.publish(nil)
	return admitted
}

// wait has a boot vouched for.
func (v *vouchers) wait(ctx context.Context, m Member) {
	name := m.gossipName()
	if w := v.waiting[name]; w != nil && claimOf(&w.latest) == claimOf(&m) {
		w.latest = m
		return
	}
	v.forget(name)
	if len(v.waiting) >= maxUnvouched {
		v.cluster.log.Warn("too many nodes in gossip are not who they claim to be: one more is not looked at", "name", m.Name, "address", m.Gossip.String())
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &waitingBoot{latest: m, cancel: cancel}
	v.waiting[name] = w
	v.running.Go(func() { v.ask(ctx, w, m) })
}

// ask asks until a boot is vouched for, or ctx is done.
func (v *vouchers) ask(ctx context.Context, w *waitingBoot, m Member) {
	for backoff := minVouchBackoff; ; backoff = min(2*backoff, maxVouchBackoff) {
		bounded, cancel := context.WithTimeout(ctx, vouchTimeout)
		err := v.cluster.options.Vouch(bounded, m)
		cancel()
		select {
		case v.done <- vouchResult{w, claimOf(&m), err}:
		case <-ctx.Done():
			return
		}
		if err == nil {
			return
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return
		}
	}
}

// finish takes the result of an attempt, and returns the event of a boot that is vouched
// for now.
func (v *vouchers) finish(r vouchResult) []event {
	name, w := r.claim.gossipName, r.boot
	if v.waiting[name] != w {
		return nil
	}
	if r.err == nil {
		v.known[name] = r.claim
		v.forget(name)
		v.publish(nil)
		return []event{{eventUp, w.latest}}
	}
	if w.attempts++; w.attempts < vouchTroubled {
		return nil
	}
	if w.attempts == vouchTroubled {
		v.cluster.log.Warn("a node in gossip is not taken for the member that it claims to be", "name", w.latest.Name,
			"boot", w.latest.Boot.ID.String(), "address", w.latest.GRPC.String(), "error", r.err)
	}
	v.publish(&Unvouched{w.latest.Name, w.latest.Boot.ID, w.latest.GRPC, r.err.Error()})
	return nil
}

func (v *vouchers) forget(name string) {
	if w := v.waiting[name]; w != nil {
		w.cancel()
		delete(v.waiting, name)
	}
}

// publish updates the status, with what is known now of one boot.
func (v *vouchers) publish(now *Unvouched) {
	c := v.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(c.mu.unvouched), func(u Unvouched) bool {
		return v.waiting[gossipName(u.Name, u.Boot)] == nil || now != nil && u.Boot == now.Boot && u.Name == now.Name
	})
	if now != nil {
		list = append(list, *now)
		slices.SortFunc(list, func(a, b Unvouched) int {
			return strings.Compare(gossipName(a.Name, a.Boot), gossipName(b.Name, b.Boot))
		})
	}
	c.mu.unvouched = list
}
