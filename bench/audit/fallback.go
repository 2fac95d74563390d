// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"slices"
	"sync"
)

// Fallback is what a limit declares for calls that are decided without the owner
// of their key.
type Fallback string

// The modes.
const (
	FallbackUnjudged Fallback = ""       // nothing is known
	FallbackClosed   Fallback = "closed" // nothing is admitted
	FallbackShare    Fallback = "share"  // each member admits the limit divided by the members
	FallbackOpen     Fallback = "open"   // all is admitted
)

// lax orders modes by what they admit.
func (f Fallback) lax() int {
	return slices.Index([]Fallback{FallbackClosed, FallbackShare, FallbackOpen, FallbackUnjudged}, f)
}

// member is who decided in fallback. The zero value: nobody, the owner did.
type member uint8

// someone decided in fallback, and did not say who, or is one too many.
const someone member = 255

// members numbers those who decided in fallback.
type members struct {
	mu    sync.Mutex
	names []string // member 1 first
}

func (m *members) of(name string) member {
	if name == "" {
		return someone
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.Index(m.names, name)
	if i < 0 {
		if len(m.names) == int(someone)-1 {
			return someone
		}
		i = len(m.names)
		m.names = append(m.names, name)
	}
	return member(i + 1)
}

// share is what one of n members may admit alone; false: nothing.
func (l *Limit) share(n int64) (*Limit, bool) {
	part := *l
	part.Amount, part.Burst = l.Amount/n, l.Burst/n
	return &part, part.Amount > 0 && (l.Burst == 0 || part.Burst > 0)
}

// beyond is what the admissions in list, all by fallback, are beyond what the
// limit declares.
func (e *examiner) beyond(l *Limit, list []admission) (sum int64) {
	if len(list) == 0 || l.Fallback == FallbackOpen && l.Amount > 0 || l.Fallback == FallbackUnjudged {
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
		if who == someone { // of them nothing is known but that they are members
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
		sum += e.judge.over(bound, e.decided, nil, nil).sure
	}
	return sum
}
