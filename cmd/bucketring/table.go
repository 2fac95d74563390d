// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
	reset  = "\x1b[0m"
)

// printAnswer prints a decision or a settlement as text.
func (s *streams) printAnswer(node *remoteService, a *responseRecorder) {
	if done := node.settlement; done != nil {
		word := strings.ToLower(strings.TrimPrefix(done.GetStatus().String(), "RESERVATION_STATUS_"))
		s.printf("%s  tier %s  request %s\n", s.colorize(green, word), cmp.Or(done.GetTier(), "unknown"), done.GetRequestId())
		s.printRoute(settlementRoute(done, node.server))
		if len(done.GetLimits()) > 0 || done.GetRoute() != pb.Route_ROUTE_FALLBACK {
			s.printLimits(done.GetLimits())
		}
		return
	}
	d := node.decision
	colour := map[pb.Outcome]string{pb.Outcome_OUTCOME_ALLOWED: green, pb.Outcome_OUTCOME_DEGRADED: yellow, pb.Outcome_OUTCOME_DENIED: red}
	word := strings.ToLower(strings.TrimPrefix(d.GetOutcome().String(), "OUTCOME_"))
	s.printf("%s  tier %s  request %s", s.colorize(colour[d.GetOutcome()], word), d.GetTier(), d.GetRequestId())
	if d.GrantedOutputTokens != nil && d.GetOutcome() != pb.Outcome_OUTCOME_DENIED {
		s.printf("  granted %s output tokens", amount.Group(d.GetGrantedOutputTokens()))
	}
	switch {
	case d.GetReplayed() && node.idGiven:
		s.printf("  (repeated answer)")
	case d.GetReplayed(): // gRPC has sent the call again
		s.printf("  (sent again after no answer)")
	}
	s.printf("\n")
	s.printWait(d)
	if d.GetOutcome() == pb.Outcome_OUTCOME_DENIED {
		s.printf("%s", a.message())
		if d.RetryAfter != nil {
			s.printf(" Retry in %s.", formatDuration(d.GetRetryAfter().AsDuration()))
		}
		s.printf("\n")
	}
	s.printRoute(decisionRoute(d, node.server))
	s.printLimits(d.GetLimits())
}

// printWait says how long a call waited in line, its place there, and its class. A call that did
// not wait has a class worth a word if it is not the usual one.
func (s *streams) printWait(d *pb.Decision) {
	class := className(d.GetPriority())
	if d.Waited == nil {
		if class != "" && d.GetPriority() != pb.Priority_PRIORITY_STANDARD {
			s.printf("class %s\n", class)
		}
		return
	}
	s.printf("waited %s", formatDuration(d.GetWaited().AsDuration()))
	if d.GetPlace() > 0 {
		s.printf(", from place %s in line", amount.Group(d.GetPlace()))
	}
	if class != "" {
		s.printf(", class %s", class)
	}
	s.printf("\n")
}

// className returns the name of a class, "" for none.
func className(p pb.Priority) string {
	if p == pb.Priority_PRIORITY_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(p.String(), "PRIORITY_"))
}

// printLimits prints a table of limits and what remains of each.
func (s *streams) printLimits(limits []*pb.LimitState) {
	if len(limits) == 0 {
		s.printf("no limits apply\n")
		return
	}
	row, flush := s.columns("LIMIT", "SCOPE", "REMAINING", "OF", "RESETS")
	defer flush()
	for _, l := range limits {
		name, remaining, resets := l.GetName(), formatAmount(l, l.GetRemaining()), "-"
		if name != l.GetDimension() {
			name += " (" + l.GetDimension() + ")"
		}
		if l.GetDebt() > 0 {
			remaining = "-" + formatAmount(l, l.GetDebt())
		}
		if l.ResetAt != nil {
			resets = "in " + formatDuration(max(0, time.Until(l.GetResetAt().AsTime())))
		}
		note := ""
		if l.GetShadow() {
			note = " shadow"
		}
		if l.GetCredit() > 0 {
			note += " credit " + formatAmount(l, l.GetCredit())
		}
		if l.GetHeadroom() > 0 {
			note += " leaves " + formatAmount(l, l.GetHeadroom()) + " free"
		}
		row(name, l.GetScope(), remaining, formatAmount(l, l.GetCapacity()), resets, s.bar(l)+note)
	}
}

// columns begins a table with a header, which flush prints. Only the last cell of a
// row may have colours: escape sequences in the others would break the alignment.
func (s *streams) columns(header ...string) (row func(cells ...string), flush func()) {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	row = func(cells ...string) { _, _ = io.WriteString(w, strings.Join(cells, "\t")+"\n") }
	row(header...)
	return row, func() { _ = w.Flush() }
}

const barWidth = 20

// bar draws what remains of a limit.
func (s *streams) bar(l *pb.LimitState) string {
	full := 0
	if l.GetCapacity() > 0 {
		full = int(float64(barWidth) * min(1, float64(l.GetRemaining())/float64(l.GetCapacity())))
	}
	if !s.outTTY || !s.colour {
		return "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "]"
	}
	colour := green
	switch {
	case l.GetExceeded():
		colour = red
	case full < barWidth/5:
		colour = yellow
	}
	return s.colorize(colour, strings.Repeat("█", full)) + strings.Repeat("░", barWidth-full)
}

func (s *streams) colorize(colour, text string) string {
	if !s.outTTY || !s.colour || text == "" {
		return text
	}
	return colour + text + reset
}

// formatAmount formats an amount in the dimension of a limit: 8,800, or $0.9988.
func formatAmount(l *pb.LimitState, n int64) string {
	if l.GetDimension() != "spend" {
		return amount.Group(n)
	}
	cents := fmt.Sprintf("%06d", n%1_000_000)
	for len(cents) > 2 && strings.HasSuffix(cents, "0") {
		cents = cents[:len(cents)-1]
	}
	return "$" + amount.Group(n/1_000_000) + "." + cents
}

// formatDuration rounds a duration for people: 7.2s, 3m20s, 5h12m.
func formatDuration(d time.Duration) string {
	switch {
	case d >= time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Millisecond).String()
}
