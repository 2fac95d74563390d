// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/rpc/httpapi/statuspage"
	"github.com/bucketring/bucketring/rpc/pb"
)

// pageDenials is how many kinds of denials the page shows.
const pageDenials = 10

// pageTraffic returns what members have decided lately, for the status page.
func pageTraffic(found *pb.HotKeysResponse) statuspage.Traffic {
	page := statuspage.Traffic{Unreachable: found.GetUnreachable()}
	denials := map[statuspage.Denial]int64{}
	for _, m := range found.GetMembers() {
		t := m.GetTraffic()
		shown := statuspage.MemberTraffic{
			Name: m.GetMember(), Interval: time.Duration(t.GetIntervalSeconds()) * time.Second, Fallback: t.GetFallback(),
			Decisions: statuspage.Decisions{Allowed: t.GetAllowed(), Degraded: t.GetDegraded(), Denied: t.GetDenied(), FromSlices: t.GetFromSlices()},
		}
		for _, i := range t.GetIntervals() {
			shown.Intervals = append(shown.Intervals, statuspage.Decisions{Allowed: i.GetAllowed(), Degraded: i.GetDegraded(), Denied: i.GetDenied(), FromSlices: i.GetFromSlices()})
		}
		page.Members = append(page.Members, shown)
		for _, d := range t.GetDenials() {
			kind := statuspage.Denial{Tier: d.GetTier(), Limit: d.GetLimit(), Reason: reasonText(d.GetReason())}
			if d.GetDimension() != d.GetLimit() {
				kind.Limit += " (" + d.GetDimension() + ")"
			}
			denials[kind] += d.GetCalls()
		}
	}
	for kind, calls := range denials {
		kind.Calls = calls
		page.Denials = append(page.Denials, kind)
	}
	slices.SortFunc(page.Denials, func(a, b statuspage.Denial) int {
		return cmp.Or(cmp.Compare(b.Calls, a.Calls), strings.Compare(a.Tier, b.Tier), strings.Compare(a.Limit, b.Limit), strings.Compare(a.Reason, b.Reason))
	})
	page.Denials = page.Denials[:min(pageDenials, len(page.Denials))]
	return page
}

// reasonText returns the name of a reason in answers.
func reasonText(r pb.Reason) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "REASON_"))
}
