// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/go-multierror"
)

func hosts(numbers ...int) (addrs []netip.AddrPort) {
	for _, i := range numbers {
		addrs = append(addrs, host(i))
	}
	return addrs
}

func TestSelectTargets(t *testing.T) {
	h := joinHistory{attempts: map[netip.AddrPort]attempt{}}
	now := time.Unix(1000, 0)
	round := func(seeds, missing, live []netip.AddrPort, answers bool) string {
		t.Helper()
		alive := map[netip.AddrPort]bool{}
		for _, addr := range live {
			alive[addr] = true
		}
		targets := h.selectTargets(seeds, missing, alive, now)
		for _, addr := range targets {
			h.record(addr, answers, now)
		}
		now = now.Add(rejoinInterval)
		out := ""
		for _, addr := range targets {
			out += fmt.Sprint(addr.Addr().As4()[3], " ")
		}
		return out
	}
	for i, tt := range []struct {
		seeds, missing, live []netip.AddrPort
		answers              bool
		want                 string
	}{
		{hosts(1, 2, 3), nil, hosts(1), false, "2 3 "},
		{hosts(1, 2, 3, 4, 5), nil, hosts(1), false, "4 5 2 "},   // untried ones first
		{hosts(1, 2), hosts(7, 6, 8), hosts(1), false, "2 7 6 "}, // one seed, then the latest crashes
		{hosts(1, 2), hosts(7, 6, 8), hosts(1), false, "2 8 7 "}, // then in turn
		{hosts(1, 2), hosts(7, 2), hosts(1), false, "2 7 "},      // none twice
		{hosts(1, 2), nil, hosts(1, 2), false, ""},               // none is missing
		{hosts(9), nil, hosts(1), true, "9 "},                    // a load balancer answers:
		{hosts(9), nil, hosts(1), true, ""},                      // it is skipped,
		{hosts(9), nil, hosts(1, 9), true, ""},                   // unless it was a member
		{hosts(9), nil, hosts(1), true, "9 "},                    // in between
		{hosts(9), hosts(9, 7), hosts(1), true, "9 7 "},          // a member that answers
		{hosts(9), hosts(9, 7), hosts(1), true, "9 7 "},          // and stays missing
		{nil, nil, nil, true, ""},                                //
	} {
		if got := round(tt.seeds, tt.missing, tt.live, tt.answers); got != tt.want {
			t.Errorf("round %d: targets %q, want %q", i+1, got, tt.want)
		}
	}
	now = now.Add(nonMemberPause)
	if got := round(hosts(9), nil, nil, true); got != "9 " {
		t.Errorf("after a minute: targets %q, want 9 again", got)
	}
	round(nil, nil, nil, true)
	if len(h.attempts) != 0 {
		t.Errorf("%d attempts remembered for addresses that are not missing", len(h.attempts))
	}
}

func TestErrorsFitOnALine(t *testing.T) {
	err := errors.Join(&multierror.Error{Errors: []error{errors.New("a"), fmt.Errorf("b: %w", errors.New("c"))}}, errors.New("d"))
	if got, want := oneLine(err), "a; b: c; d"; got != want {
		t.Errorf("oneLine = %q, want %q", got, want)
	}
}

// A problem of the last round is none any more when all that were missing are back.
func TestContactProblemEnds(t *testing.T) {
	view := func(hosts ...int) *View {
		v := &View{}
		for _, i := range hosts {
			v.Members = append(v.Members, Member{Gossip: host(i)})
		}
		return v
	}
	tests := map[string]struct {
		missing []netip.AddrPort
		view    *View
		want    string
	}{
		"nobody is back":              {[]netip.AddrPort{host(2), host(3)}, view(1), "refused"},
		"one is still missing":        {[]netip.AddrPort{host(2), host(3)}, view(1, 2), "refused"},
		"all are back":                {[]netip.AddrPort{host(2), host(3)}, view(1, 2, 3), ""},
		"back, but with a new name":   {[]netip.AddrPort{host(2)}, &View{Members: view(1, 3).Members, Fenced: view(2).Members}, ""},
		"no seed, and nobody":         {nil, view(1), "refused"},
		"no seed, and another member": {nil, view(1, 2), ""},
	}
	for name, test := range tests {
		c := contactStatus{problem: "refused", missing: test.missing}
		if got := c.problemIn(test.view); got != test.want {
			t.Errorf("%s: problem = %q, want %q", name, got, test.want)
		}
	}
}
