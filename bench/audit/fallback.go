// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"slices"
	"sync"
)

// FallbackMode is what a limit declares for calls that are decided without the owner of
// their key.
type FallbackMode string

// The fallback modes.
const (
	FallbackUnknown FallbackMode = ""       // not known: fallback is not judged
	FallbackClosed  FallbackMode = "closed" // admits nothing
	FallbackShare   FallbackMode = "share"  // each member admits the limit divided by the members
	FallbackOpen    FallbackMode = "open"   // admits everything
)

// permissiveness orders modes by what they admit. It is -1 for an invalid mode.
func (f FallbackMode) permissiveness() int {
	return slices.Index([]FallbackMode{FallbackClosed, FallbackShare, FallbackOpen, FallbackUnknown}, f)
}

// member is a member that decided in fallback. 0 means that the owner decided.
type member uint8

// unknownMember decided in fallback but its name is unknown, or there are too many names.
const unknownMember member = 255

// members numbers the members that decided in fallback.
type members struct {
	mu    sync.Mutex
	names []string // member 1 first
}

func (m *members) number(name string) member {
	if name == "" {
		return unknownMember
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.Index(m.names, name)
	if i < 0 {
		if len(m.names) == int(unknownMember)-1 {
			return unknownMember
		}
		i = len(m.names)
		m.names = append(m.names, name)
	}
	return member(i + 1)
}

// share returns the limit of one of n members, or false if it admits nothing.
func (l *Limit) share(n int64) (*Limit, bool) {
	part := *l
	part.Amount, part.Burst = l.Amount/n, l.Burst/n
	return &part, part.Amount > 0 && (l.Burst == 0 || part.Burst > 0)
}

// beyondBound returns the cost that fallback admitted beyond the declared mode. All
// admissions of the list must be by fallback.
func (e *examiner) beyondBound(l *Limit, list []admission) (sum int64) {
	if len(list) == 0 || l.Fallback == FallbackOpen && l.Amount > 0 || l.Fallback == FallbackUnknown {
		return 0
	}
	all := func(list []admission) (sum int64) {
		for i := range list {
			sum += list[i].cost
		}
		return sum
	}
	if l.Fallback == FallbackClosed || l.Amount == 0 {
		return all(list)
	}
	n := int64(e.options.Members)
	if n == 0 {
		return 0
	}
	part, ok := l.share(n)
	if !ok {
		return all(list)
	}
	var deciders []member
	for i := range list {
		if !slices.Contains(deciders, list[i].decider) {
			deciders = append(deciders, list[i].decider)
		}
	}
	for _, who := range deciders {
		bound := part
		if who == unknownMember { // any of the members
			bound = &Limit{}
			*bound = *part
			bound.Amount, bound.Burst = n*part.Amount, n*part.Burst
		}
		e.decided = e.decided[:0]
		for i := range list {
			if list[i].decider == who {
				e.decided = append(e.decided, list[i])
			}
		}
		sum += e.overChecker.check(bound, e.decided, nil, nil).sure
	}
	return sum
}
