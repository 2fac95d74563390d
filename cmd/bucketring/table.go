// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
	reset  = "\x1b[0m"
)

// answer prints a decision or a settlement for a person.
func (s *streams) answer(node *forward, a *recorder) {
	if done := node.settlement; done != nil {
		word := strings.ToLower(strings.TrimPrefix(done.GetStatus().String(), "RESERVATION_STATUS_"))
		s.printf("%s  tier %s  request %s\n", s.paint(green, word), done.GetTier(), done.GetRequestId())
		s.limits(done.GetLimits())
		return
	}
	d := node.decision
	colour := map[pb.Outcome]string{pb.Outcome_OUTCOME_ALLOWED: green, pb.Outcome_OUTCOME_DEGRADED: yellow, pb.Outcome_OUTCOME_DENIED: red}
	word := strings.ToLower(strings.TrimPrefix(d.GetOutcome().String(), "OUTCOME_"))
	s.printf("%s  tier %s  request %s", s.paint(colour[d.GetOutcome()], word), d.GetTier(), d.GetRequestId())
	if d.GrantedOutputTokens != nil && d.GetOutcome() != pb.Outcome_OUTCOME_DENIED {
		s.printf("  granted %s output tokens", grouped(d.GetGrantedOutputTokens()))
	}
	if d.GetReplayed() {
		s.printf("  (answered before)")
	}
	s.printf("\n")
	if d.GetOutcome() == pb.Outcome_OUTCOME_DENIED {
		s.printf("%s", a.message())
		if d.RetryAfter != nil {
			s.printf(" Retry in %s.", short(d.GetRetryAfter().AsDuration()))
		}
		s.printf("\n")
	}
	s.limits(d.GetLimits())
}

// limits prints what remains of each limit.
func (s *streams) limits(limits []*pb.LimitState) {
	if len(limits) == 0 {
		s.printf("no limit applies\n")
		return
	}
	row, flush := s.columns("LIMIT", "SCOPE", "LEFT", "OF", "RESETS")
	defer flush()
	for _, l := range limits {
		name, left, resets := l.GetName(), amount(l, l.GetRemaining()), "-"
		if name != l.GetDimension() {
			name += " (" + l.GetDimension() + ")"
		}
		if l.GetDebt() > 0 {
			left = "-" + amount(l, l.GetDebt())
		}
		if l.ResetAt != nil {
			resets = "in " + short(max(0, time.Until(l.GetResetAt().AsTime())))
		}
		note := ""
		if l.GetShadow() {
			note = " shadow"
		}
		row(name, l.GetScope(), left, amount(l, l.GetCapacity()), resets, s.bar(l)+note)
	}
}

// columns begins a table with a header. Nothing is printed until flush. The last
// cell of a row is outside of all columns, so it may have colours, which have no
// width.
func (s *streams) columns(header ...string) (row func(cells ...string), flush func()) {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	row = func(cells ...string) { _, _ = io.WriteString(w, strings.Join(cells, "\t")+"\n") }
	row(header...)
	return row, func() { _ = w.Flush() }
}

const barWidth = 20

// bar draws the share of a limit that remains.
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
	return s.paint(colour, strings.Repeat("█", full)) + strings.Repeat("░", barWidth-full)
}

func (s *streams) paint(colour, text string) string {
	if !s.outTTY || !s.colour || text == "" {
		return text
	}
	return colour + text + reset
}

// amount is a number of the limit's dimension: 8,800, or $0.9988.
func amount(l *pb.LimitState, n int64) string {
	if l.GetDimension() != "spend" {
		return grouped(n)
	}
	cents := fmt.Sprintf("%06d", n%1_000_000)
	for len(cents) > 2 && strings.HasSuffix(cents, "0") {
		cents = cents[:len(cents)-1]
	}
	return "$" + grouped(n/1_000_000) + "." + cents
}

func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// short is a duration as precise as a person wants it: 7.2s, 3m20s, 5h12m.
func short(d time.Duration) string {
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
