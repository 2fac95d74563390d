// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"reflect"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/bench/local"
)

// Every campaign has a plan that local accepts.
func TestPlans(t *testing.T) {
	for _, c := range All() {
		if c.Kind == Split {
			continue
		}
		for victim := 1; victim <= c.Nodes; victim++ {
			if _, err := local.NewPlan(c.Nodes, faultAt+maxFault, c.faults(victim)...); err != nil {
				t.Errorf("%s: %v", c, err)
			}
		}
	}
	if err := (Options{Campaigns: All()}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestMinority(t *testing.T) {
	for c, want := range map[Campaign]string{{Split, 3, 1}: "split 2|1", {Split, 5, 1}: "split 3|2", {Kill, 3, 1}: "kill -9 of 3"} {
		if got := c.String(); got != want {
			t.Errorf("%+v is %q, want %q", c, got, want)
		}
	}
}

func TestFaultOfMarks(t *testing.T) {
	kill := local.Mark{Kind: local.Kill, Node: "bench-2", At: at(5_000), EffectiveAt: at(8_000)}
	join := local.Mark{Kind: local.Join, Node: "bench-2", At: at(11_000), EffectiveAt: at(12_000)}
	f := faultOf(Campaign{Kill, 3, 1}, []local.Mark{kill, join})
	want := &fault{victims: []int{2}, begin: at(5_000), applied: at(5_000), end: at(12_000), outages: []outage{{[]int{2}, at(5_000), at(11_000)}}}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("a kill: %+v, want %+v", f, want)
	}

	f = faultOf(Campaign{FullKill, 3, 1}, []local.Mark{kill, {Kind: local.Kill, Node: "bench-1", At: at(5_000), EffectiveAt: at(5_500)}, join})
	if o := []outage{{[]int{2, 1}, at(11_000), at(12_000)}}; !reflect.DeepEqual(f.outages, o) {
		t.Errorf("a full kill: %+v, want %+v", f.outages, o)
	}
	if f.problem == nil || !strings.Contains(f.problem.Error(), "one ring") {
		t.Errorf("marks are missing: %v, want a problem", f.problem)
	}
}

func TestInvalidOptions(t *testing.T) {
	for want, o := range map[string]Options{
		"campaigns: must not be empty":     {},
		`kind: unknown "fire"`:             {Campaigns: []Campaign{{"fire", 3, 1}}},
		"count: must be 1 to 10000, got 0": {Campaigns: []Campaign{{Kill, 3, 0}}},
		"nodes: must be 3 to 9, got 2":     {Campaigns: []Campaign{{Kill, 2, 1}}},
		"rate: must be above 0":            {Campaigns: All(), Rate: -1},
		"split_for: must not be negative":  {Campaigns: All(), SplitFor: -1},
	} {
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
}
