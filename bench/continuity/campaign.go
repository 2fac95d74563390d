// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"errors"
	"fmt"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults.
const (
	Rolling  Kind = "rolling restart"   // all nodes restart, one after the other
	Kill     Kind = "kill -9"           // an owner is killed, and started again after 6 s
	Pause    Kind = "pause"             // SIGSTOP of an owner for 5 s
	Split    Kind = "split"             // a minority loses contact with the others
	FullKill Kind = "full-cluster kill" // all nodes with --data are killed and started again
)

// Campaign is a number of faults of one kind in a cluster of some size.
type Campaign struct {
	Kind  Kind
	Nodes int
	Count int
}

// String returns the campaign's name, such as "rolling restart of 3".
func (c Campaign) String() string {
	if c.Kind == Split {
		return fmt.Sprintf("%s %d|%d", c.Kind, c.Nodes-minority(c.Nodes), minority(c.Nodes))
	}
	return fmt.Sprintf("%s of %d", c.Kind, c.Nodes)
}

// minority returns the size of the smaller side of a split.
func minority(nodes int) int { return (nodes - 1) / 2 }

// All returns the campaigns whose results docs/continuity.md publishes. They take about two
// hours, and the splits need root.
func All() []Campaign {
	return []Campaign{
		{Rolling, 3, 50},
		{Rolling, 5, 50},
		{Kill, 3, 50},
		{Pause, 3, 20},
		{Split, 3, 10},
		{Split, 5, 10},
		{FullKill, 3, 5},
	}
}

// Options configure [Run].
type Options struct {
	// Campaigns run in this order.
	Campaigns []Campaign
	// Binary is the bucketring executable. Empty means this executable.
	Binary string
	// NodeArgs are further arguments of `bucketring serve` for each node.
	NodeArgs []string
	// Waiters makes limits for which calls wait, and a load of which many calls wait all the
	// time.
	Waiters bool
	// Rate is the number of calls per second, without settles. 0 means DefaultRate.
	Rate float64
	// Seed makes the calls: the same seed makes the same calls.
	Seed uint64
	// SplitFor is how long a split lasts. 0 means 30 s.
	SplitFor time.Duration
	// Dir, if not empty, is where the logs of nodes are kept, one directory per campaign.
	Dir string
	// Log, if not nil, is called with a line of text for each event, one at a time.
	Log func(text string)
}

// The defaults of [Options].
const (
	DefaultRate     = 400
	DefaultSplitFor = 30 * time.Second
)

// maxCount bounds a campaign.
const maxCount = 10_000

func (o Options) withDefaults() Options {
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	if o.SplitFor == 0 {
		o.SplitFor = DefaultSplitFor
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	return o
}

// Validate returns all problems, joined.
func (o Options) Validate() error {
	var problems []error
	if len(o.Campaigns) == 0 {
		problems = append(problems, errors.New("campaigns: must not be empty"))
	}
	for _, c := range o.Campaigns {
		if _, ok := promises[c.Kind]; !ok {
			problems = append(problems, fmt.Errorf("kind: unknown %q", c.Kind))
			continue
		}
		if c.Count < 1 || c.Count > maxCount {
			problems = append(problems, fmt.Errorf("%s: count: must be 1 to %d, got %d", c, maxCount, c.Count))
		}
		if c.Nodes < 3 || c.Nodes > 9 {
			problems = append(problems, fmt.Errorf("%s: nodes: must be 3 to 9, got %d", c, c.Nodes))
		}
	}
	if o.Rate < 0 || o.Rate > 1e6 {
		problems = append(problems, fmt.Errorf("rate: must be above 0 and at most 1000000, got %g", o.Rate))
	}
	if o.SplitFor < 0 {
		problems = append(problems, fmt.Errorf("split_for: must not be negative, got %s", o.SplitFor))
	}
	return errors.Join(problems...)
}
