// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// observer is what memberlist calls, mostly under its own lock: so it copies,
// leaves a note and returns. It never calls memberlist, logs, or waits.
type observer struct {
	ring  ID
	meta  func() []byte
	heard atomic.Int64 // when gossip last said that a node is alive, Unix nanoseconds

	dirty chan struct{} // there is something to take; cap 1: one note is enough

	mu struct {
		sync.Mutex
		events   map[string]event // the latest of each name: earlier ones are outdated
		refusals map[string]error // by name; at most maxRefusals
	}
}

// maxRefusals bounds what strangers can make this node keep.
const maxRefusals = 64

// refusal begins every reason to keep a node out. The log of memberlist repeats
// the reason with each message from the node, and lines with it are dropped there.
const refusal = "node refused: "

var (
	_ memberlist.Delegate      = (*observer)(nil)
	_ memberlist.EventDelegate = (*observer)(nil)
	_ memberlist.AliveDelegate = (*observer)(nil)
	_ memberlist.MergeDelegate = (*observer)(nil)
)

func newObserver(ring ID, meta func() []byte) *observer {
	o := &observer{ring: ring, meta: meta, dirty: make(chan struct{}, 1)}
	o.mu.events = map[string]event{}
	o.mu.refusals = map[string]error{}
	return o
}

// take returns what was noted since the last call, events in order of names.
func (o *observer) take() ([]event, map[string]error) {
	o.mu.Lock()
	events, refusals := o.mu.events, o.mu.refusals
	o.mu.events, o.mu.refusals = map[string]event{}, map[string]error{}
	o.mu.Unlock()
	sorted := make([]event, 0, len(events))
	for _, name := range slices.Sorted(maps.Keys(events)) {
		sorted = append(sorted, events[name])
	}
	return sorted, refusals
}

func (o *observer) note(kind eventKind, n *memberlist.Node) {
	m, err := memberOf(n)
	if err != nil {
		return // never: it came past NotifyAlive
	}
	o.mu.Lock()
	o.mu.events[n.Name] = event{kind, m}
	o.mu.Unlock()
	o.wake()
}

func (o *observer) wake() {
	select {
	case o.dirty <- struct{}{}:
	default:
	}
}

// admit is nil for a node that may be a member here.
func (o *observer) admit(n *memberlist.Node) error {
	m, err := memberOf(n)
	if err == nil && m.Ring != o.ring {
		err = fmt.Errorf("ring configuration %s is not %s", m.Ring, o.ring)
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf(refusal+"%w", err)
	o.mu.Lock()
	if len(o.mu.refusals) < maxRefusals {
		o.mu.refusals[strings.Clone(n.Name)] = err
	}
	o.mu.Unlock()
	o.wake()
	return err
}

// memberOf copies what memberlist will change in place.
func memberOf(n *memberlist.Node) (Member, error) {
	r, err := decodeRecord(n.Meta)
	if err != nil {
		return Member{}, err
	}
	ip, ok := netip.AddrFromSlice(n.Addr)
	if !ok {
		return Member{}, fmt.Errorf("address has %d bytes", len(n.Addr))
	}
	if n.Name != nodeName(r.slot, r.boot.ID) {
		return Member{}, errors.New("name is not that of its slot and boot")
	}
	at := func(port uint16) netip.AddrPort {
		if port == 0 {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(ip.Unmap(), port)
	}
	return Member{
		Slot: r.slot, Boot: r.boot, State: r.state, Ring: r.ring, Policy: r.policy, Rules: r.rules,
		Gossip: at(n.Port), GRPC: at(r.grpc), HTTP: at(r.http),
	}, nil
}

// NotifyJoin implements [memberlist.EventDelegate].
func (o *observer) NotifyJoin(n *memberlist.Node) { o.note(observed, n) }

// NotifyUpdate implements [memberlist.EventDelegate].
func (o *observer) NotifyUpdate(n *memberlist.Node) { o.note(observed, n) }

// NotifyLeave implements [memberlist.EventDelegate].
func (o *observer) NotifyLeave(n *memberlist.Node) { o.note(lost, n) }

// NotifyAlive implements [memberlist.AliveDelegate].
func (o *observer) NotifyAlive(n *memberlist.Node) error {
	o.heard.Store(time.Now().UnixNano())
	return o.admit(n)
}

// NotifyMerge implements [memberlist.MergeDelegate]: two clusters that must not
// be one stay apart as a whole.
func (o *observer) NotifyMerge(peers []*memberlist.Node) error {
	for _, n := range peers {
		if n.State == memberlist.StateAlive || n.State == memberlist.StateSuspect {
			if err := o.admit(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// NodeMeta implements [memberlist.Delegate].
func (o *observer) NodeMeta(int) []byte { return o.meta() }

// The rest of [memberlist.Delegate] is for data on gossip, which is lossy and
// unordered: what matters goes over gRPC.

func (o *observer) NotifyMsg([]byte)                {}
func (o *observer) GetBroadcasts(int, int) [][]byte { return nil }
func (o *observer) LocalState(bool) []byte          { return nil }
func (o *observer) MergeRemoteState([]byte, bool)   {}
