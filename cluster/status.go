// SPDX-License-Identifier: Apache-2.0

package cluster

import "time"

// Status is the state of this member for operators.
type Status struct {
	Name        string
	Boot        Boot
	State       State // as set by this node
	Fenced      bool  // see [View.SelfFenced]
	View        *View
	PolicySkew  []DigestGroup // see [View.PolicySkew]
	RulesSkew   []DigestGroup // see [View.RulesSkew]
	HealthScore int           // see [Cluster.HealthScore]
	LastContact time.Time     // when a seed or a missing member last answered; zero: never
	Problem     string        // why no missing member answered lately; "" if there is no problem
	Unvouched   []Unvouched   // boots that are in no view; see [Options.Vouch]
	Keys        []ID          // see [Cluster.KeyIDs]; none: gossip is plaintext
}

// Status returns the current status.
func (c *Cluster) Status() Status {
	v := c.View()
	c.mu.Lock()
	self, contact, unvouched := c.mu.self, c.mu.contact, c.mu.unvouched
	c.mu.Unlock()
	return Status{
		Name: self.name, Boot: self.boot, State: self.state, Fenced: v.SelfFenced(),
		View: v, PolicySkew: v.PolicySkew(), RulesSkew: v.RulesSkew(), HealthScore: c.HealthScore(),
		LastContact: contact.last, Problem: contact.problemIn(v), Unvouched: unvouched, Keys: c.KeyIDs(),
	}
}
