// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"fmt"
	"time"
)

// Unit is the unit of a counter's window, by the UTC clock.
type Unit uint8

// The units. A week begins on Monday. Months and years are calendar months and years.
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

// longestUnits are the maximum lengths of the units.
var longestUnits = [...]time.Duration{
	0, time.Second, time.Minute, time.Hour, day, 7 * day, 31 * day, 366 * day,
}

const day = 24 * time.Hour

// maxCounterWindow is the longest window. It keeps ends within the range of Unix
// nanoseconds, which ends in 2262.
const maxCounterWindow = 100 * 366 * day

// Window is the window of a counter: a multiple of a unit of the UTC clock. Windows are
// consecutive from the beginning of 1970, and those of weeks from its first Monday,
// 5 January. Windows of 3 months are therefore the quarters of a year.
type Window struct {
	Unit     Unit
	Multiple uint32 // number of units; 0 means 1
}

// Validate returns a [*FieldError] if the window is invalid.
func (w Window) Validate() error {
	if w.Unit < UnitSecond || w.Unit > UnitYear {
		return numberError("unit", int64(w.Unit), "must be second, minute, hour, day, week, month or year")
	}
	if most := int64(maxCounterWindow / longestUnits[w.Unit]); w.multiple() > most {
		return numberError("unit_multiplier", w.multiple(), fmt.Sprintf("a window must be at most 100 years, which is %d of unit %s", most, w.Unit))
	}
	return nil
}

func (w Window) multiple() int64 { return max(int64(w.Multiple), 1) }

// epochWeek is the first Monday of 1970.
const epochWeek = int64(4 * day)

// Bounds returns the half-open interval [start, end) of the window that contains wall,
// all in Unix nanoseconds. w must be valid, and wall must be between 1870 and 2150.
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
