// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"net/netip"
	"time"
)

// Bounds of the lines that callers cause who may change nothing, so that a flood of their
// calls does not fill the disk: per address and minute as many as the calls that may fail
// before the address is refused for it, and per minute in all.
const (
	maxRefusedPerAddress = 60
	maxRefused           = 600
	refusedWindow        = time.Minute
)

// refusals counts the lines of refused callers in a minute. It has at most maxRefused
// addresses.
type refusals struct {
	begin     time.Time
	lines     int
	byAddress map[netip.Addr]int
	omitted   int64 // since the last line
}

// admit reports whether one more line of an address may be written at now, and how many were
// left out before it.
func (r *refusals) admit(address netip.Addr, now time.Time) (omitted int64, ok bool) {
	if r.byAddress == nil || now.Sub(r.begin) >= refusedWindow {
		r.begin, r.lines, r.byAddress = now, 0, map[netip.Addr]int{}
	}
	if r.lines >= maxRefused || r.byAddress[address] >= maxRefusedPerAddress {
		r.omitted++
		return 0, false
	}
	r.lines++
	r.byAddress[address]++
	omitted, r.omitted = r.omitted, 0
	return omitted, true
}

// WriteRefused is [Log.Write] of an attempt by a caller at an address who may not administer.
// It writes at most 60 lines a minute for an address, and 600 for all. It reports whether the
// line was left out; the next one says how many were.
func (l *Log) WriteRefused(e *Entry, address netip.Addr, now time.Time) (omitted bool, err error) {
	l.refusedMu.Lock()
	before, ok := l.refused.admit(address, now)
	l.refusedMu.Unlock()
	if !ok {
		return true, nil
	}
	e.Omitted = before
	return false, l.Write(e)
}
