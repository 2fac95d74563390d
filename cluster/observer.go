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

	"github.com/bucketring/bucketring/internal/notify"
)

// observer implements memberlist's delegates. memberlist calls them while it
// holds its lock, so the methods only copy, enqueue and return: they never call
// memberlist, log or block.
type observer struct {
	ring      ID
	meta      func() []byte
	lastAlive atomic.Int64 // when gossip last reported a node as alive, Unix nanoseconds

	changed notify.Signal // set when there is something to drain

	mu struct {
		sync.Mutex
		events     map[string]event // the latest event per gossip name; earlier ones are obsolete
		rejections map[string]error // by gossip name; at most maxRejections
	}
}

// maxRejections bounds the memory that rejected nodes can take.
const maxRejections = 64

// rejectionPrefix begins each rejection error. memberlist logs the error for each
// message from the rejected node, and gossipLog drops lines that contain it.
const rejectionPrefix = "node rejected: "

var (
	_ memberlist.Delegate      = (*observer)(nil)
	_ memberlist.EventDelegate = (*observer)(nil)
	_ memberlist.AliveDelegate = (*observer)(nil)
	_ memberlist.MergeDelegate = (*observer)(nil)
)

func newObserver(ring ID, meta func() []byte) *observer {
	o := &observer{ring: ring, meta: meta, changed: notify.New()}
	o.mu.events = map[string]event{}
	o.mu.rejections = map[string]error{}
	return o
}

// drain returns the events since the last call, in order of gossip names, and the
// rejections.
func (o *observer) drain() ([]event, map[string]error) {
	o.mu.Lock()
	events, rejections := o.mu.events, o.mu.rejections
	o.mu.events, o.mu.rejections = map[string]event{}, map[string]error{}
	o.mu.Unlock()
	sorted := make([]event, 0, len(events))
	for _, name := range slices.Sorted(maps.Keys(events)) {
		sorted = append(sorted, events[name])
	}
	return sorted, rejections
}

func (o *observer) enqueue(kind eventKind, n *memberlist.Node) {
	m, err := memberOf(n)
	if err != nil {
		return // impossible: NotifyAlive has accepted the node
	}
	o.mu.Lock()
	o.mu.events[n.Name] = event{kind, m}
	o.mu.Unlock()
	o.changed.Set()
}

// admit returns an error for a node that cannot be a member of this cluster.
func (o *observer) admit(n *memberlist.Node) error {
	m, err := memberOf(n)
	if err == nil && m.Ring != o.ring {
		err = fmt.Errorf("ring configuration %s is not %s", m.Ring, o.ring)
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf(rejectionPrefix+"%w", err)
	o.mu.Lock()
	if len(o.mu.rejections) < maxRejections {
		o.mu.rejections[strings.Clone(n.Name)] = err
	}
	o.mu.Unlock()
	o.changed.Set()
	return err
}

// memberOf copies a node, because memberlist modifies it in place.
func memberOf(n *memberlist.Node) (Member, error) {
	r, err := decodeRecord(n.Meta)
	if err != nil {
		return Member{}, err
	}
	ip, ok := netip.AddrFromSlice(n.Addr)
	if !ok {
		return Member{}, fmt.Errorf("address has %d bytes", len(n.Addr))
	}
	if n.Name != gossipName(r.name, r.boot.ID) {
		return Member{}, errors.New("gossip name does not match name and boot in the metadata")
	}
	withPort := func(port uint16) netip.AddrPort {
		if port == 0 {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(ip.Unmap(), port)
	}
	return Member{
		Name: r.name, Boot: r.boot, State: r.state, Ring: r.ring, Policy: r.policy, Rules: r.rules, TLS: r.tls,
		Gossip: withPort(n.Port), GRPC: withPort(r.grpc), HTTP: withPort(r.http),
	}, nil
}

// NotifyJoin implements [memberlist.EventDelegate].
func (o *observer) NotifyJoin(n *memberlist.Node) { o.enqueue(eventUp, n) }

// NotifyUpdate implements [memberlist.EventDelegate].
func (o *observer) NotifyUpdate(n *memberlist.Node) { o.enqueue(eventUp, n) }

// NotifyLeave implements [memberlist.EventDelegate].
func (o *observer) NotifyLeave(n *memberlist.Node) { o.enqueue(eventDown, n) }

// NotifyAlive implements [memberlist.AliveDelegate].
func (o *observer) NotifyAlive(n *memberlist.Node) error {
	o.lastAlive.Store(time.Now().UnixNano())
	return o.admit(n)
}

// NotifyMerge implements [memberlist.MergeDelegate]. If one live node cannot be a
// member, no node of the other cluster is accepted.
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

// The rest of [memberlist.Delegate] carries user data on gossip. It is not used,
// because gossip is lossy and unordered: members talk over gRPC.

func (o *observer) NotifyMsg([]byte)                {}
func (o *observer) GetBroadcasts(int, int) [][]byte { return nil }
func (o *observer) LocalState(bool) []byte          { return nil }
func (o *observer) MergeRemoteState([]byte, bool)   {}
