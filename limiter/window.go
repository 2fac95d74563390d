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
	s := calendarWindow(l.Calendar, time.Unix(0, wall).In(zone))
	l.span.Store(&s)
	return s
}

func calendarWindow(unit Calendar, t time.Time) span {
	y, m, d := t.Date()
	switch unit {
	case Hour:
		return hourWindow(t)
	case Week:
		d -= (int(t.Weekday()) + 6) % 7 // back to Monday
		return span{dayStart(y, m, d, t.Location()), dayStart(y, m, d+7, t.Location())}
	case Month:
		return span{dayStart(y, m, 1, t.Location()), dayStart(y, m+1, 1, t.Location())}
	case Year:
		return span{dayStart(y, 1, 1, t.Location()), dayStart(y+1, 1, 1, t.Location())}
	default:
		return span{dayStart(y, m, d, t.Location()), dayStart(y, m, d+1, t.Location())}
	}
}

// dayStart returns the first instant of a day. If the zone skips midnight, that is the
// moment of the change; if midnight occurs twice, it is the first.
func dayStart(y int, m time.Month, d int, zone *time.Location) int64 {
	noon := time.Date(y, m, d, 12, 0, 0, 0, zone) // normalizes the date
	y, m, d = noon.Date()
	t := time.Date(y, m, d, 0, 0, 0, 0, zone)
	from, until := t.ZoneBounds()
	if t.Day() != d {
		return until.UnixNano()
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
