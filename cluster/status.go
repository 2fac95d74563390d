// SPDX-License-Identifier: Apache-2.0

package cluster

import "time"

// Status is what an operator wants to know, made for JSON.
type Status struct {
	Slot        string        `json:"slot"`
	Boot        Boot          `json:"boot"`
	State       State         `json:"state"` // as this node has set it
	Fenced      bool          `json:"fenced"`
	View        *View         `json:"view"`
	PolicySkew  []PolicyGroup `json:"policy_skew,omitempty"` // nil: all have the same
	RulesSkew   []PolicyGroup `json:"rules_skew,omitempty"`  // nil: all that have rules have the same
	HealthScore int           `json:"health_score"`          // 0 is well, 1 is not
	// LastContact is when a seed or a missing member last answered, Problem why
	// none of those that are missing did lately.
	LastContact time.Time `json:"last_contact,omitzero"`
	Problem     string    `json:"problem,omitempty"`
	// Keys are fingerprints of the gossip keys, the one that encrypts first.
	// None: plaintext.
	Keys []ID `json:"keys,omitempty"`
}

// Status returns how things stand now.
func (c *Cluster) Status() Status {
	v := c.View()
	c.mu.Lock()
	self, contact := c.mu.self, c.mu.contact
	c.mu.Unlock()
	return Status{
		Slot: self.slot, Boot: self.boot, State: self.state, Fenced: v.SelfFenced(),
		View: v, PolicySkew: v.PolicySkew(), RulesSkew: v.RulesSkew(), HealthScore: c.HealthScore(),
		LastContact: contact.last, Problem: contact.problem, Keys: c.KeyIDs(),
	}
}
