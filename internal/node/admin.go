// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/rand"
	"sync"

	"github.com/bucketring/bucketring/internal/audit"
	"github.com/bucketring/bucketring/rpc/admin"
)

// openAdmin opens the audit log and creates the service for operators.
func (n *Node) openAdmin() (err error) {
	if n.audit, err = audit.Open(n.config.AuditLog, n.log); err != nil {
		return err
	}
	n.cleanups.push("close the audit log", n.audit.Close)
	n.admin = admin.New(admin.Options{
		Name:       n.config.Name,
		Administer: n.router.Administer,
		Reload: func() ([]string, string) {
			problems := n.Reload()
			return problems, n.policies.Status().Digest
		},
		Drain: n.drain, NewID: rand.Text,
		Audit: n.audit, Logger: n.log, Registry: n.registry,
	})
	return nil
}

// departure is the handover of the partitions of this node. It is made once.
type departure struct {
	mu   sync.Mutex
	done chan struct{} // closed when it is over; nil: it has not begun
	err  error
}

// begin returns when the departure is over, and whether it has begun now.
func (d *departure) begin() (done chan struct{}, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if first = d.done == nil; first {
		d.done = make(chan struct{})
	}
	return d.done, first
}

// leaveRingOnce is leaveRing at shutdown. If the node was drained before, it waits until
// that is done.
func (n *Node) leaveRingOnce() error {
	n.departure.mu.Lock()
	done := n.departure.done
	n.departure.mu.Unlock()
	switch {
	case done != nil:
		<-done
		return n.departure.err
	case n.skipLeave:
		return nil
	}
	return n.leaveRing()
}

// drain turns the node unready and hands its partitions over, as at shutdown. The node goes
// on answering, by forwarding to the new owners. It reports whether that is done. There is no
// way back but a restart: [cluster.Leaving] is the last state of a run, see docs/admin.md.
func (n *Node) drain() (done bool, message string) {
	if n.phase.Load() == starting {
		return false, "the node is starting: ask again when it is ready"
	}
	if n.phase.CompareAndSwap(serving, drained) {
		n.updateHealth()
		n.log.Info("draining: an operator has asked for it")
	}
	if !n.othersInRing(n.cluster.View()) && n.inRing(n.cluster.View()) {
		return false, "the node is unready, and goes on deciding: no other member is in the ring to take its keys over. Only a restart makes it ready again"
	}
	over, first := n.departure.begin()
	if first {
		go func() { // at shutdown, leaveRingOnce waits for it
			n.departure.err = n.leaveRing()
			close(over)
		}()
	}
	select {
	case <-over:
	default:
		return false, "the node is unready, and hands its keys over to the other members"
	}
	if n.departure.err != nil {
		return false, "the node could not leave the ring: " + n.departure.err.Error()
	}
	select {
	case <-n.replication.Left():
		return true, "the node is unready, and the other members own its keys: stop it, or restart it to take it back into the ring"
	default:
		return false, "the node is unready, and still owns keys that no other member has taken over: see bucketring status --partitions"
	}
}
