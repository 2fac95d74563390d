// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

func TestWindows(t *testing.T) {
	for _, c := range []struct {
		name     string
		unit     limiter.Unit
		multiple uint32
		in       string // an instant in the window
		start    string
		end      string
	}{
		{"a second", limiter.UnitSecond, 0, "2026-03-04T12:34:56Z", "2026-03-04T12:34:56Z", "2026-03-04T12:34:57Z"},
		{"10 seconds", limiter.UnitSecond, 10, "2026-03-04T12:34:56Z", "2026-03-04T12:34:50Z", "2026-03-04T12:35:00Z"},
		{"a minute", limiter.UnitMinute, 1, "2026-12-31T23:59:59Z", "2026-12-31T23:59:00Z", "2027-01-01T00:00:00Z"},
		{"15 minutes", limiter.UnitMinute, 15, "2026-03-04T12:34:56Z", "2026-03-04T12:30:00Z", "2026-03-04T12:45:00Z"},
		{"an hour", limiter.UnitHour, 1, "2026-03-04T12:34:56Z", "2026-03-04T12:00:00Z", "2026-03-04T13:00:00Z"},
		{"5 hours begin anew at no hour of the day", limiter.UnitHour, 5, "2026-03-04T12:34:56Z", "2026-03-04T11:00:00Z", "2026-03-04T16:00:00Z"},
		{"a day", limiter.UnitDay, 1, "2026-03-04T12:34:56Z", "2026-03-04T00:00:00Z", "2026-03-05T00:00:00Z"},
		{"the leap day", limiter.UnitDay, 1, "2028-02-29T23:59:59Z", "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"},
		{"2 days from the first of 1970", limiter.UnitDay, 2, "1970-01-04T00:00:00Z", "1970-01-03T00:00:00Z", "1970-01-05T00:00:00Z"},
		{"a week begins on Monday", limiter.UnitWeek, 1, "2026-11-22T23:59:59Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"},
		{"a week of two years", limiter.UnitWeek, 1, "2027-01-01T00:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},
		{"2 weeks from the first Monday of 1970", limiter.UnitWeek, 2, "1970-01-18T23:59:59Z", "1970-01-05T00:00:00Z", "1970-01-19T00:00:00Z"},
		{"a month of 28 days", limiter.UnitMonth, 1, "2026-02-28T23:59:59Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"},
		{"a month of 29 days", limiter.UnitMonth, 1, "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		{"a month of 30 days", limiter.UnitMonth, 1, "2026-04-30T23:59:59Z", "2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z"},
		{"a month of 31 days", limiter.UnitMonth, 1, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"a quarter", limiter.UnitMonth, 3, "2026-05-15T00:00:00Z", "2026-04-01T00:00:00Z", "2026-07-01T00:00:00Z"},
		{"half a year", limiter.UnitMonth, 6, "2028-06-30T23:59:59Z", "2028-01-01T00:00:00Z", "2028-07-01T00:00:00Z"},
		{"5 months run across years", limiter.UnitMonth, 5, "1971-01-15T00:00:00Z", "1970-11-01T00:00:00Z", "1971-04-01T00:00:00Z"},
		{"a year", limiter.UnitYear, 1, "2026-12-31T23:59:59Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"a leap year", limiter.UnitYear, 1, "2028-12-31T23:59:59Z", "2028-01-01T00:00:00Z", "2029-01-01T00:00:00Z"},
		{"a decade", limiter.UnitYear, 10, "2026-03-04T00:00:00Z", "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z"},
		{"before 1970", limiter.UnitYear, 2, "1969-06-01T00:00:00Z", "1968-01-01T00:00:00Z", "1970-01-01T00:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := limiter.Window{Unit: c.unit, Multiple: c.multiple}
			if err := w.Validate(); err != nil {
				t.Fatalf("Validate() = %v, want no error", err)
			}
			start, end := instant(t, c.start), instant(t, c.end)
			for _, wall := range []int64{start, instant(t, c.in), end - 1} {
				if s, e := w.Bounds(wall); s != start || e != end {
					t.Errorf("Bounds(%s) = %s, %s, want %s, %s", utc(wall), utc(s), utc(e), c.start, c.end)
				}
			}
			if _, before := w.Bounds(start - 1); before != start {
				t.Errorf("the window before ends at %s, want %s", utc(before), c.start)
			}
			if after, _ := w.Bounds(end); after != end {
				t.Errorf("the window after begins at %s, want %s", utc(after), c.end)
			}
		})
	}
}

func instant(t *testing.T, text string) int64 {
	t.Helper()
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return when.UnixNano()
}

func utc(wall int64) string { return time.Unix(0, wall).UTC().Format(time.RFC3339Nano) }

// TestWindowsAreCountedFrom1970 compares calendar windows with a walk from the first
// window to the next, and other windows with a division of big integers.
func TestWindowsAreCountedFrom1970(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := anyWindow(t)
		wall := rapid.Int64Range(0, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()).Draw(t, "wall")
		start, end := w.Bounds(wall)
		if s, e := walkedWindow(w, wall); s != start || e != end {
			t.Fatalf("%d of unit %s at %s = %s, %s, want %s, %s", w.Multiple, w.Unit, utc(wall), utc(start), utc(end), utc(s), utc(e))
		}
	})
}

func anyWindow(t *rapid.T) limiter.Window {
	return limiter.Window{
		Unit:     limiter.Unit(rapid.IntRange(int(limiter.UnitSecond), int(limiter.UnitYear)).Draw(t, "unit")),
		Multiple: uint32(rapid.SampledFrom([]int{0, 1, 2, 3, 5, 7, 12, 100}).Draw(t, "multiple")),
	}
}

// walkedWindow returns the window that contains wall, after 1970, without Window.Bounds.
func walkedWindow(w limiter.Window, wall int64) (start, end int64) {
	n := max(int(w.Multiple), 1)
	at := time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	var next func(time.Time) time.Time
	switch w.Unit {
	case limiter.UnitWeek:
		for at.Weekday() != time.Monday {
			at = at.AddDate(0, 0, 1)
		}
		if wall < at.UnixNano() {
			return at.AddDate(0, 0, -7*n).UnixNano(), at.UnixNano()
		}
		next = func(t time.Time) time.Time { return t.AddDate(0, 0, 7*n) }
	case limiter.UnitMonth:
		next = func(t time.Time) time.Time { return t.AddDate(0, n, 0) }
	case limiter.UnitYear:
		next = func(t time.Time) time.Time { return t.AddDate(n, 0, 0) }
	default:
		length := map[limiter.Unit]time.Duration{
			limiter.UnitSecond: time.Second, limiter.UnitMinute: time.Minute, limiter.UnitHour: time.Hour, limiter.UnitDay: 24 * time.Hour,
		}[w.Unit] * time.Duration(n)
		whole := new(big.Int).Div(big.NewInt(wall), big.NewInt(int64(length))).Int64()
		return whole * int64(length), (whole + 1) * int64(length)
	}
	for next(at).UnixNano() <= wall {
		at = next(at)
	}
	return at.UnixNano(), next(at).UnixNano()
}

func TestInvalidWindows(t *testing.T) {
	for _, c := range []struct {
		window limiter.Window
		want   string
	}{
		{limiter.Window{}, "unit: must be second, minute, hour, day, week, month or year, got 0"},
		{limiter.Window{Unit: limiter.UnitYear + 1}, "unit: must be second, minute, hour, day, week, month or year, got 8"},
		{limiter.Window{Unit: limiter.UnitYear, Multiple: 101}, "unit_multiplier: a window must be at most 100 years, which is 100 of unit year, got 101"},
		{limiter.Window{Unit: limiter.UnitMonth, Multiple: 1181}, "unit_multiplier: a window must be at most 100 years, which is 1180 of unit month, got 1181"},
		{limiter.Window{Unit: limiter.UnitSecond, Multiple: 1<<32 - 1}, "unit_multiplier: a window must be at most 100 years, which is 3162240000 of unit second, got 4294967295"},
	} {
		err := c.window.Validate()
		if field, ok := errors.AsType[*limiter.FieldError](err); !ok || field.Error() != c.want {
			t.Errorf("Validate(%+v) = %v, want %s", c.window, err, c.want)
		}
	}
	for _, w := range []limiter.Window{{Unit: limiter.UnitYear, Multiple: 100}, {Unit: limiter.UnitSecond, Multiple: 3162240000}} {
		if err := w.Validate(); err != nil {
			t.Errorf("Validate(%+v) = %v, want no error", w, err)
		}
	}
}
