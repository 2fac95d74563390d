// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/internal/oracle"
	"github.com/bucketring/bucketring/limiter"
)

func budget(unit limiter.Calendar, z *time.Location) limiter.Limit {
	return limiter.Limit{Name: "budget", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 100, Calendar: unit, Zone: z}
}

// at parses a local time.
func at(t *testing.T, zoneName, local string) limiter.Time {
	t.Helper()
	when, err := time.ParseInLocation("2006-01-02 15:04:05", local, zone(zoneName))
	if err != nil {
		t.Fatal(err)
	}
	return wallAt(when)
}

func TestCalendarWindows(t *testing.T) {
	for _, c := range []struct {
		name, zone string
		unit       limiter.Calendar
		in         string // an instant in the window
		start, end string
		length     time.Duration
	}{
		{"a day in New York", "America/New_York", limiter.Day, "2026-07-04 15:00:00", "2026-07-04 00:00:00", "2026-07-05 00:00:00", 24 * time.Hour},
		{"the day of 23 hours in New York", "America/New_York", limiter.Day, "2026-03-08 12:00:00", "2026-03-08 00:00:00", "2026-03-09 00:00:00", 23 * time.Hour},
		{"the day of 25 hours in New York", "America/New_York", limiter.Day, "2026-11-01 12:00:00", "2026-11-01 00:00:00", "2026-11-02 00:00:00", 25 * time.Hour},
		{"the day of 23 hours in Berlin", "Europe/Berlin", limiter.Day, "2026-03-29 12:00:00", "2026-03-29 00:00:00", "2026-03-30 00:00:00", 23 * time.Hour},
		{"the day of 25 hours in Berlin", "Europe/Berlin", limiter.Day, "2026-10-25 12:00:00", "2026-10-25 00:00:00", "2026-10-26 00:00:00", 25 * time.Hour},
		{"a day that begins at one", "Africa/Cairo", limiter.Day, "2026-04-24 12:00:00", "2026-04-24 01:00:00", "2026-04-25 00:00:00", 23 * time.Hour},
		{"a day that has midnight twice", "America/Havana", limiter.Day, "2026-11-01 12:00:00", "2026-11-01 00:00:00", "2026-11-02 00:00:00", 25 * time.Hour},
		{"the leap day", "Europe/Berlin", limiter.Day, "2028-02-29 23:59:59", "2028-02-29 00:00:00", "2028-03-01 00:00:00", 24 * time.Hour},
		{"February of a leap year", "America/New_York", limiter.Month, "2028-02-10 00:00:00", "2028-02-01 00:00:00", "2028-03-01 00:00:00", 29 * 24 * time.Hour},
		{"February", "UTC", limiter.Month, "2026-02-28 23:59:59", "2026-02-01 00:00:00", "2026-03-01 00:00:00", 28 * 24 * time.Hour},
		{"a month with a change of the clock", "Europe/Berlin", limiter.Month, "2026-03-31 23:59:59", "2026-03-01 00:00:00", "2026-04-01 00:00:00", 31*24*time.Hour - time.Hour},
		{"December", "UTC", limiter.Month, "2026-12-31 23:59:59", "2026-12-01 00:00:00", "2027-01-01 00:00:00", 31 * 24 * time.Hour},
		{"a year", "UTC", limiter.Year, "2026-07-04 15:00:00", "2026-01-01 00:00:00", "2027-01-01 00:00:00", 365 * 24 * time.Hour},
		{"a leap year that begins in the east", "Asia/Kolkata", limiter.Year, "2028-02-29 23:59:59", "2028-01-01 00:00:00", "2029-01-01 00:00:00", 366 * 24 * time.Hour},
		{"a week begins on Monday", "Europe/Berlin", limiter.Week, "2026-11-22 23:00:00", "2026-11-16 00:00:00", "2026-11-23 00:00:00", 7 * 24 * time.Hour},
		{"the week with a change of the clock", "America/New_York", limiter.Week, "2026-03-08 23:00:00", "2026-03-02 00:00:00", "2026-03-09 00:00:00", 7*24*time.Hour - time.Hour},
		{"an hour of a zone with half an hour", "Asia/Kolkata", limiter.Hour, "2026-03-04 10:59:59", "2026-03-04 10:00:00", "2026-03-04 11:00:00", time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			p := n.plan("k", budget(c.unit, zone(c.zone)))
			start, end := at(t, c.zone, c.start), at(t, c.zone, c.end)
			all := func() *limiter.Request { return &limiter.Request{Key: "k", Plan: p, InputTokens: 100} }

			wantOutcome(t, "just before", n.check(start.Add(-1), all()), limiter.Allowed)
			d := n.check(start, all())
			wantOutcome(t, "at the start", d, limiter.Allowed)
			if s := d.Limits[0]; s.ResetAt != end.Wall || s.Window != c.length {
				t.Errorf("reset_at = %s, window = %s, want %s, %s", time.Unix(0, s.ResetAt).In(zone(c.zone)), s.Window, c.end, c.length)
			}
			in := at(t, c.zone, c.in)
			d = n.check(in, all())
			wantOutcome(t, "within", d, limiter.Denied)
			if want := time.Duration(end.Wall - in.Wall); d.RetryAfter != want {
				t.Errorf("retry_after = %s, want %s", d.RetryAfter, want)
			}
			wantOutcome(t, "a nanosecond before the end", n.check(limiter.Time{Mono: noon.Mono, Wall: end.Wall - 1}, all()), limiter.Denied)
			wantOutcome(t, "at the end", n.check(end, all()), limiter.Allowed)
		})
	}
}

// TestCalendarAgreesWithLabels compares windows in many zones and years with those of the
// oracle, where a window is all instants with the same local date.
func TestCalendarAgreesWithLabels(t *testing.T) {
	names := []string{
		"UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo", "America/Havana",
		"Pacific/Apia", "Africa/Cairo", "Asia/Tehran", "Asia/Beirut", "America/Nuuk", "America/St_Johns", "Pacific/Chatham", "Atlantic/Azores", "America/Santiago", "Asia/Gaza",
	}
	from, until := time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano(), time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	rapid.Check(t, func(rt *rapid.T) {
		l := budget(limiter.Calendar(rapid.IntRange(int(limiter.Hour), int(limiter.Year)).Draw(rt, "unit")), zone(rapid.SampledFrom(names).Draw(rt, "zone")))
		drawStart(rt, &l)
		wall := rapid.Int64Range(from, until).Draw(rt, "wall")
		if rapid.Bool().Draw(rt, "near a change") {
			if _, change := time.Unix(0, wall).In(l.Zone).ZoneBounds(); !change.IsZero() {
				wall = change.UnixNano() + rapid.Int64Range(-int64(26*time.Hour), int64(26*time.Hour)).Draw(rt, "off")
			}
		}
		n := newNode(t, limiter.Options{})
		r := &limiter.Request{Key: "k", Plan: n.plan("k", l)}
		now := limiter.Time{Mono: 1, Wall: wall}
		sameDecision(rt, time.Unix(0, wall).In(l.Zone).String(), n.peek(now, r), oracle.New().Peek(now, r))
	})
}

// drawStart draws when the windows of a limit begin, often near the changes of clocks.
func drawStart(t *rapid.T, l *limiter.Limit) {
	switch l.Calendar {
	case limiter.Day:
		l.StartMinute = rapid.OneOf(rapid.IntRange(0, 24*60-1), rapid.SampledFrom([]int{0, 30, 60, 90, 120, 150, 180, 23 * 60})).Draw(t, "start minute")
	case limiter.Month:
		l.StartDay = rapid.IntRange(0, 31).Draw(t, "start day")
	}
}

func TestStartsOfCalendarWindows(t *testing.T) {
	const hour = time.Hour
	for _, c := range []struct {
		name, zone  string
		day, minute int
		in          string // an instant in the window
		start, end  string
		length      time.Duration
	}{
		{"a month from the 15th", "UTC", 15, 0, "2026-03-14 23:59:59", "2026-02-15 00:00:00", "2026-03-15 00:00:00", 28 * 24 * hour},
		{"on the 15th", "UTC", 15, 0, "2026-03-15 00:00:00", "2026-03-15 00:00:00", "2026-04-15 00:00:00", 31 * 24 * hour},
		{"a month from the 15th, over a year's end", "Asia/Kolkata", 15, 0, "2027-01-03 00:00:00", "2026-12-15 00:00:00", "2027-01-15 00:00:00", 31 * 24 * hour},
		{"a month with a change of the clock", "Europe/Berlin", 15, 0, "2026-04-01 00:00:00", "2026-03-15 00:00:00", "2026-04-15 00:00:00", 31*24*hour - hour},
		{"the 31st of January", "UTC", 31, 0, "2026-02-10 00:00:00", "2026-01-31 00:00:00", "2026-02-28 00:00:00", 28 * 24 * hour},
		{"February has no 31st", "UTC", 31, 0, "2026-03-10 00:00:00", "2026-02-28 00:00:00", "2026-03-31 00:00:00", 31 * 24 * hour},
		{"a leap year has no 30th of February", "UTC", 30, 0, "2028-02-29 12:00:00", "2028-02-29 00:00:00", "2028-03-30 00:00:00", 30 * 24 * hour},
		{"a day from nine", "America/New_York", 0, 9 * 60, "2026-07-05 08:59:59", "2026-07-04 09:00:00", "2026-07-05 09:00:00", 24 * hour},
		{"the day of 23 hours from nine", "America/New_York", 0, 9 * 60, "2026-03-08 08:59:59", "2026-03-07 09:00:00", "2026-03-08 09:00:00", 23 * hour},
		{"the day of 25 hours from nine", "Europe/Berlin", 0, 9 * 60, "2026-10-25 00:00:00", "2026-10-24 09:00:00", "2026-10-25 09:00:00", 25 * hour},
		{"the start is skipped", "America/New_York", 0, 150, "2026-03-08 12:00:00", "2026-03-08 03:00:00", "2026-03-09 02:30:00", 23*hour + 30*time.Minute},
		{"the start occurs twice", "America/New_York", 0, 90, "2026-11-01 12:00:00", "2026-11-01 01:30:00", "2026-11-02 01:30:00", 25 * hour},
	} {
		l := budget(limiter.Day, zone(c.zone))
		if c.day != 0 {
			l.Calendar = limiter.Month
		}
		l.StartDay, l.StartMinute = c.day, c.minute
		n := newNode(t, limiter.Options{})
		p := n.plan("k", l)
		start, end := at(t, c.zone, c.start), at(t, c.zone, c.end)
		for _, now := range []limiter.Time{start, at(t, c.zone, c.in), {Mono: noon.Mono, Wall: end.Wall - 1}} {
			s := n.peek(now, &limiter.Request{Key: "k", Plan: p}).Limits[0]
			if s.ResetAt != end.Wall || s.Window != c.length {
				t.Errorf("%s: reset_at = %s, window = %s, want %s, %s", c.name, time.Unix(0, s.ResetAt).In(zone(c.zone)), s.Window, c.end, c.length)
			}
		}
		if s := n.peek(limiter.Time{Mono: noon.Mono, Wall: start.Wall - 1}, &limiter.Request{Key: "k", Plan: p}).Limits[0]; s.ResetAt != start.Wall {
			t.Errorf("%s: the window before ends at %s, want %s", c.name, time.Unix(0, s.ResetAt).In(zone(c.zone)), c.start)
		}
	}
}

// TestZoneChangeOpensNoWindowEarly checks that a new zone applies after the next reset.
func TestZoneChangeOpensNoWindowEarly(t *testing.T) {
	n := newNode(t, limiter.Options{})
	west, east := n.plan("k", budget(limiter.Day, zone("America/New_York"))), n.plan("k", budget(limiter.Day, zone("Europe/Berlin")))
	spend := func(now limiter.Time, p *limiter.Plan) limiter.Decision {
		return n.check(now, &limiter.Request{Key: "k", Plan: p, InputTokens: 100})
	}
	evening := at(t, "America/New_York", "2026-07-04 17:00:00") // 23:00 in Berlin
	wantOutcome(t, "the day's budget", spend(evening, west), limiter.Allowed)
	d := spend(evening.Add(90*time.Minute), east) // 00:30 of the next day in Berlin
	wantOutcome(t, "after midnight in the new zone", d, limiter.Denied)
	if want := at(t, "America/New_York", "2026-07-05 00:00:00").Wall; d.Limits[0].ResetAt != want {
		t.Errorf("reset_at = %s, want midnight in the old zone", time.Unix(0, d.Limits[0].ResetAt).UTC())
	}
	wantOutcome(t, "the old zone again", spend(evening.Add(2*time.Hour), west), limiter.Denied)

	next := at(t, "America/New_York", "2026-07-05 00:00:00")
	d = spend(next, east)
	wantOutcome(t, "at the reset", d, limiter.Allowed)
	if want := at(t, "Europe/Berlin", "2026-07-06 00:00:00").Wall; d.Limits[0].ResetAt != want {
		t.Errorf("reset_at after the reset = %s, want midnight in the new zone", time.Unix(0, d.Limits[0].ResetAt).UTC())
	}
}

// TestDurationWindowsAlignToTheEpoch checks windows that are not calendar units.
func TestDurationWindowsAlignToTheEpoch(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", limiter.Limit{Name: "x", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: 10, Window: 7 * time.Minute})
	d := n.check(noon, &limiter.Request{Key: "k", Plan: p, InputTokens: 10})
	if s := d.Limits[0]; s.ResetAt%int64(7*time.Minute) != 0 || s.ResetAt <= noon.Wall || s.ResetAt > noon.Wall+int64(7*time.Minute) {
		t.Errorf("reset_at = %d, want the next multiple of 7 minutes", s.ResetAt)
	}
}

// TestRefundAndOverageOfABudget checks that a refund counts only in the window of the
// reserve, and that usage beyond the estimate also counts after it.
func TestRefundAndOverageOfABudget(t *testing.T) {
	night := at(t, "UTC", "2026-07-04 23:59:50")
	morning := night.Add(20 * time.Second)
	for _, c := range []struct {
		name        string
		usage, want int64
	}{{"refund", 10, 0}, {"exact", 60, 0}, {"overage", 75, 15}} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			p := n.plan("k", budget(limiter.Day, time.UTC))
			n.reserve(night, &limiter.Request{Key: "k", ID: "r", Plan: p, InputTokens: 60})
			d := n.settle(morning, limiter.Usage{Key: "k", ID: "r", InputTokens: c.usage, OutputTokens: 0, Final: true})
			wantUsed(t, "the new day", d, 0, c.want)
		})
	}
	t.Run("late after expiry", func(t *testing.T) {
		n := newNode(t, limiter.Options{})
		p := n.plan("k", budget(limiter.Day, time.UTC))
		n.reserve(night, &limiter.Request{Key: "k", ID: "r", Plan: p, InputTokens: 10, OutputTokens: 40})
		wantUsed(t, "the new day, lease run out", n.peek(morning.Add(time.Minute), &limiter.Request{Key: "k", Plan: p}), 0, 0)
		d := n.settle(morning.Add(2*time.Minute), limiter.Usage{Key: "k", ID: "r", InputTokens: 10, OutputTokens: 25, Final: true})
		wantUsed(t, "the old day had counted more already", d, 0, 0)
	})
}
