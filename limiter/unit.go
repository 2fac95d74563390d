// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"strconv"
	"time"
)

// Unit is what the window of a counter is made of. All are of the UTC clock.
type Unit uint8

// The units. A week begins on Monday; months and years are those of the
// calendar.
const (
	UnitSecond Unit = iota + 1
	UnitMinute
	UnitHour
	UnitDay
	UnitWeek
	UnitMonth
	UnitYear
)

var unitNames = [...]string{"", "second", "minute", "hour", "day", "week", "month", "year"}

// String returns the unit's name.
func (u Unit) String() string {
	if int(u) < len(unitNames) {
		return unitNames[u]
	}
	return "unknown"
}

// longestUnits are the units at their longest.
var longestUnits = [...]time.Duration{
	0, time.Second, time.Minute, time.Hour, day, 7 * day, 31 * day, 366 * day,
}

const day = 24 * time.Hour

// maxCounterWindow keeps the end of a window far from the end of time, which is
// in 2262.
const maxCounterWindow = 100 * 366 * day

// Window is the window of a counter: so many units of the UTC clock. Windows of
// several units follow each other from the beginning of 1970: from its first
// second, its first Monday (5 January), its first month and its first year. So
// windows of 3 months are the quarters of each year, those of 10 years are
// decades, and those of 5 days or 5 months begin anew at no particular date.
type Window struct {
	Unit     Unit
	Multiple uint32 // 0 means 1
}

// Validate says what is wrong with the window, as a [*FieldError].
func (w Window) Validate() error {
	if w.Unit < UnitSecond || w.Unit > UnitYear {
		return &FieldError{Field: "unit", Value: strconv.Itoa(int(w.Unit)), Problem: "must be second, minute, hour, day, week, month or year"}
	}
	if most := int64(maxCounterWindow / longestUnits[w.Unit]); w.multiple() > most {
		return &FieldError{
			Field: "unit_multiplier", Value: strconv.FormatInt(w.multiple(), 10),
			Problem: "a window must be at most 100 years, which is " + strconv.FormatInt(most, 10) + " of unit " + w.Unit.String(),
		}
	}
	return nil
}

func (w Window) multiple() int64 { return max(int64(w.Multiple), 1) }

// epochWeek is the first Monday of 1970.
const epochWeek = int64(4 * day)

// At returns the window, [start, end), that holds wall, all in Unix nanoseconds.
// The window must be valid, and wall not centuries away.
func (w Window) Bounds(wall int64) (start, end int64) {
	n := w.multiple()
	switch w.Unit {
	case UnitMonth:
		y, m, _ := time.Unix(0, wall).UTC().Date()
		first := floorDiv(int64(y-1970)*12+int64(m-1), n) * n
		return monthStart(first), monthStart(first + n)
	case UnitYear:
		first := floorDiv(int64(time.Unix(0, wall).UTC().Year()-1970), n) * n
		return monthStart(12 * first), monthStart(12 * (first + n))
	}
	from, length := int64(0), int64(longestUnits[w.Unit])*n
	if w.Unit == UnitWeek {
		from = epochWeek
	}
	start = from + floorDiv(wall-from, length)*length
	return start, start + length
}

// monthStart returns the first instant of a month, counted from January 1970.
func monthStart(month int64) int64 {
	return time.Date(1970, time.January+time.Month(month), 1, 0, 0, 0, 0, time.UTC).UnixNano()
}
