// SPDX-License-Identifier: Apache-2.0

package limiter

import "time"

// span is the half-open interval of a fixed window, in Unix nanoseconds.
type span struct{ start, end int64 }

// windowAt returns the fixed window that contains wall. Calendar windows are those of
// the limit's zone, so a day can have 23 or 25 hours; other windows align to the Unix
// epoch. The last result is cached, because all keys of a limit share their window.
func (l *limit) windowAt(wall int64) span {
	if l.Calendar == NoCalendar {
		start := floorDiv(wall, l.window) * l.window
		return span{start, start + l.window}
	}
	if s := l.span.Load(); s != nil && s.start <= wall && wall < s.end {
		return *s
	}
	zone := l.Zone
	if zone == nil {
		zone = time.UTC
	}
	s := l.calendarWindow(time.Unix(0, wall).In(zone))
	l.span.Store(&s)
	return s
}

// calendarWindow returns the calendar window that contains t.
func (l *Limit) calendarWindow(t time.Time) span {
	y, m, d := t.Date()
	var start func(period int) int64 // of the window that begins in a day or month
	switch l.Calendar {
	case Hour:
		return hourWindow(t)
	case Week:
		d -= (int(t.Weekday()) + 6) % 7 // back to Monday
		return span{dayStart(y, m, d, t.Location()), dayStart(y, m, d+7, t.Location())}
	case Month:
		start = func(period int) int64 { return l.monthStart(y, m+time.Month(period), t.Location()) }
	case Year:
		return span{dayStart(y, 1, 1, t.Location()), dayStart(y+1, 1, 1, t.Location())}
	default:
		start = func(period int) int64 { return timeOfDay(y, m, d+period, l.StartMinute, t.Location()) }
	}
	if s := start(0); s <= t.UnixNano() {
		return span{s, start(1)}
	}
	return span{start(-1), start(0)}
}

// monthStart returns the first instant of the window that begins in a month.
func (l *Limit) monthStart(y int, m time.Month, zone *time.Location) int64 {
	last := time.Date(y, m+1, 0, 0, 0, 0, 0, time.UTC).Day()
	return dayStart(y, m, min(max(l.StartDay, 1), last), zone)
}

// dayStart returns the first instant of a day.
func dayStart(y int, m time.Month, d int, zone *time.Location) int64 {
	return timeOfDay(y, m, d, 0, zone)
}

// timeOfDay returns the first instant of a day at which so many minutes after midnight have
// come by the local clock. If the zone skips that time, that is the moment of the change;
// if it occurs twice, it is the first.
func timeOfDay(y int, m time.Month, d, minute int, zone *time.Location) int64 {
	want := time.Date(y, m, d, 0, minute, 0, 0, time.UTC) // as a reading of the clock
	t := time.Date(y, m, d, 0, minute, 0, 0, zone)
	from, until := t.ZoneBounds()
	switch read := reading(t); {
	case read.Before(want):
		return until.UnixNano()
	case read.After(want):
		return from.UnixNano()
	}
	if !from.IsZero() {
		_, before := from.Add(-1).Zone()
		_, after := t.Zone()
		earlier := t.Add(-time.Duration(before-after) * time.Second)
		if before > after && earlier.Before(from) {
			t = earlier
		}
	}
	return t.UnixNano()
}

// reading returns what the local clock shows, as a time in UTC.
func reading(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// hourWindow returns the hour of the local clock that contains t, cut where the zone's
// offset changes.
func hourWindow(t time.Time) span {
	_, offset := t.Zone()
	shift := int64(offset) * int64(time.Second)
	start := floorDiv(t.UnixNano()+shift, int64(time.Hour))*int64(time.Hour) - shift
	s := span{start, start + int64(time.Hour)}
	from, until := t.ZoneBounds()
	if !from.IsZero() {
		s.start = max(s.start, from.UnixNano())
	}
	if !until.IsZero() {
		s.end = min(s.end, until.UnixNano())
	}
	return s
}
