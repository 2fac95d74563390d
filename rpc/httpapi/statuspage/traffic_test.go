// SPDX-License-Identifier: Apache-2.0

package statuspage

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestChart: members are added up by their latest intervals, the highest bar is as high as the
// chart, and what is few is visible.
func TestChart(t *testing.T) {
	longer := MemberTraffic{Interval: 5 * time.Second, Intervals: []Decisions{{Allowed: 100}, {Allowed: 400, FromSlices: 400}}}
	later := MemberTraffic{Interval: 5 * time.Second, Intervals: []Decisions{{Allowed: 1, Degraded: 1, Denied: 198}}}
	got := Traffic{Members: []MemberTraffic{later, longer}}.Chart()
	want := chart{Width: 600, Most: 200, Span: 10 * time.Second, Layers: []layer{
		{"allowed", "M580 100h8V90h-8zM590 100h8V20h-8z"},
		{"degraded", "M590 20h8V19h-8z"},
		{"denied", "M590 20h8V0h-8z"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("chart (-want +got):\n%s", diff)
	}
	if rate := later.Rate(); rate != 40 {
		t.Errorf("rate %v, want 40", rate)
	}
	for _, nothing := range []Traffic{{}, {Members: []MemberTraffic{{}}}, {Members: []MemberTraffic{{Intervals: []Decisions{{}, {}}}}}} {
		if c := nothing.Chart(); c.Most != 0 || c.Layers[0].Path != "" || nothing.Rate() != 0 {
			t.Errorf("chart of no calls: %+v", c)
		}
	}
}
