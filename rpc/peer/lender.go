// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/slice"
	"github.com/bucketring/bucketring/ring"
)

const (
	// lendInterval is the least time between two slices of a key for the same asker.
	lendInterval = 10 * time.Millisecond
	// recallWait bounds how long a denial waits for the slices that it recalls.
	recallWait = 20 * time.Millisecond
	// Bounds of what a lender remembers. Beyond them nothing is lent.
	maxLentKeys    = 10_000
	maxKeyAskers   = 256
	maxSlicesOfKey = 256
	maxKeyUnknown  = 256
	// maxIdle is after what time without a request for a slice its asker is forgotten: when
	// its returned calls do not count any more.
	maxIdle = 2 * ratePeriod
	// maxCalls bounds the calls that are counted for an asker and a period.
	maxCalls = 1 << 40
	// ratePeriod is for how long returned calls are counted together.
	ratePeriod = time.Second
)

// lender remembers the slices that this member has lent, until they are returned or over, so
// that it can recall them. The engine has their charges. It is safe for concurrent use, and
// its methods lock one partition.
type lender struct {
	now         func() time.Duration
	outstanding atomic.Int64 // slices
	keys        atomic.Int64
	partitions  []lentPartition
	expired     func(slices int) // told of slices that were not returned
}

type lentPartition struct {
	sync.Mutex
	keys map[string]*lentKey // nil: none
}

// lentKey are the slices of one key, and who has asked for one lately.
type lentKey struct {
	askers  []sliceAsker
	slices  []*lentSlice
	holders map[uint32]int // how many of the slices an asker holds; nil: none was lent yet
	period  int64          // number of the ratePeriod of the askers' calls
	// unknown has ids of reservations that clients may have made from slices, and when they
	// were asked for first; nil: none.
	unknown map[string]time.Duration
}

// sliceAsker is who has asked for a slice, by the number in [call.Call].Asker.
type sliceAsker struct {
	id   uint32
	last time.Duration // when it asked
	// calls are those that it decided from slices which it returned in this period, and
	// before those of the period before.
	calls, before int64
}

// lentSlice is a slice that is outstanding.
type lentSlice struct {
	id      string
	key     string
	asker   uint32
	calls   int64 // that it has room for, at most
	holder  askerName
	model   string // of the calls that it is for; "*": none
	limits  []lentLimit
	reserve bool          // it is for reserves; else for checks
	lent    time.Duration // when it was lent
	until   time.Duration // the end of its lease

	// What follows is guarded by the lock of the partition.
	recalled time.Duration // until when denials wait for its return; 0: it was not recalled
	// ended is made with the first recall, and closed when the slice is not outstanding
	// any more.
	ended chan struct{}
}

// lentLimit is a limit of which a slice has an amount.
type lentLimit struct {
	name, scope string
	perModel    bool
}

func newLender(now func() time.Duration, expired func(slices int)) *lender {
	return &lender{now: now, partitions: make([]lentPartition, ring.Partitions), expired: expired}
}

// terms are those of a slice for one asker.
type terms struct {
	share   int64 // of the key's calls, in thousandths
	rate    int64 // calls per second of the asker
	holders int   // that will hold slices
}

// begin reports whether a slice of key may be lent to an asker now, and on which terms. rate
// is how often per second calls with the key were decided here, and share the asker's part
// in thousandths. Calls that holders decide from slices count, too, once they have returned
// these. If a slice may be lent, no other may be lent to the same asker for lendInterval,
// whether or not this one is.
func (l *lender) begin(partition int, key string, asker uint32, rate, share int64) (t terms, ok bool) {
	now := l.now()
	p := &l.partitions[partition]
	p.Lock()
	defer p.Unlock()
	k := p.keys[key]
	if k == nil {
		if rate < limiter.HotRate || l.keys.Load() >= maxLentKeys {
			return terms{}, false
		}
		if p.keys == nil {
			p.keys = map[string]*lentKey{}
		}
		k = &lentKey{}
		p.keys[strings.Clone(key)] = k
		l.keys.Add(1)
	}
	l.pruneLocked(k, now)
	i := slices.IndexFunc(k.askers, func(a sliceAsker) bool { return a.id == asker })
	if i >= 0 && now-k.askers[i].last < lendInterval || len(k.slices) >= maxSlicesOfKey {
		return terms{}, false
	}
	all, its := k.ratesLocked(now, i)
	if rate += all; rate < limiter.HotRate {
		return terms{}, false
	}
	switch {
	case i >= 0:
		k.askers[i].last = now
	case len(k.askers) >= maxKeyAskers:
		return terms{}, false
	default:
		k.askers = append(k.askers, sliceAsker{id: asker, last: now})
	}
	calls := (rate-all)*share/1000 + its
	return terms{share: min(calls*1000/rate, 1000), rate: calls, holders: k.holdersWith(asker)}, true
}

// ratesLocked returns how many calls per second are decided from slices of k, and how many
// of them by the asker with an index, or -1.
func (k *lentKey) ratesLocked(now time.Duration, asker int) (all, its int64) {
	k.advanceLocked(now)
	for i := range k.askers {
		n := k.askers[i].rate(now)
		all += n
		if i == asker {
			its = n
		}
	}
	return all, its
}

// rate returns how many calls per second the asker decides from slices: those of the period
// before and of what has passed of this one, to which the counts must have been moved.
func (a *sliceAsker) rate(now time.Duration) int64 {
	return (a.calls + a.before) * 1000 / int64((ratePeriod+now%ratePeriod)/time.Millisecond)
}

// advanceLocked moves the counts of calls to the period of now.
func (k *lentKey) advanceLocked(now time.Duration) {
	period := int64(now / ratePeriod)
	if period == k.period {
		return
	}
	for i := range k.askers {
		a := &k.askers[i]
		if a.before = a.calls; period != k.period+1 {
			a.before = 0
		}
		a.calls = 0
	}
	k.period = period
}

// holdersWith counts those who hold slices, with one more asker.
func (k *lentKey) holdersWith(asker uint32) int {
	if k.holders[asker] > 0 {
		return len(k.holders)
	}
	return len(k.holders) + 1
}

// add remembers a slice that was lent after begin.
func (l *lender) add(partition int, s *lentSlice, lease time.Duration) {
	s.lent = l.now()
	s.until = s.lent + slice.Kept(lease)
	p := &l.partitions[partition]
	p.Lock()
	defer p.Unlock()
	k := p.keys[s.key]
	if k == nil { // the partition was forgotten between
		return
	}
	if k.holders == nil {
		k.holders = map[uint32]int{}
	}
	k.slices = append(k.slices, s)
	k.holders[s.asker]++
	l.outstanding.Add(1)
}

// returned forgets a slice whose return was decided, with the number of calls that were
// decided from it. It reports false if the slice is not known: it was returned before, or its
// lease has ended.
func (l *lender) returned(partition int, key, id string, calls int64) bool {
	p := &l.partitions[partition]
	p.Lock()
	defer p.Unlock()
	k := p.keys[key]
	if k == nil {
		return false
	}
	i := slices.IndexFunc(k.slices, func(s *lentSlice) bool { return s.id == id })
	if i < 0 {
		return false
	}
	s := k.slices[i]
	l.endLocked(k, s)
	k.advanceLocked(l.now())
	if j := slices.IndexFunc(k.askers, func(a sliceAsker) bool { return a.id == s.asker }); j >= 0 {
		k.askers[j].calls = min(k.askers[j].calls+min(calls, s.calls), maxCalls)
	}
	k.slices = slices.Delete(k.slices, i, i+1)
	return true
}

// endLocked ends a slice of k, from whose list the caller removes it.
func (l *lender) endLocked(k *lentKey, s *lentSlice) {
	if s.ended != nil {
		close(s.ended)
	}
	if k.holders[s.asker]--; k.holders[s.asker] == 0 {
		delete(k.holders, s.asker)
	}
	l.outstanding.Add(-1)
}

// recall appends the slices whose return may make room for a call of a model that some of
// the limits have denied, if they are to be waited for. Those that were not recalled yet are
// appended to fresh, too: the caller sends them a recall. A slice whose holder did not
// return it in time is not waited for again. reachable says who can be sent a recall.
func (l *lender) recall(waited, fresh []*lentSlice, partition int, model string, limits []limiter.LimitState, reachable func(askerName) bool) (_, _ []*lentSlice) {
	now := l.now()
	p := &l.partitions[partition]
	p.Lock()
	defer p.Unlock()
	for _, k := range p.keys {
		l.pruneLocked(k, now)
		for _, s := range k.slices {
			if !s.frees(model, limits) || s.recalled != 0 && s.recalled <= now {
				continue
			}
			if s.recalled == 0 {
				if !reachable(s.holder) {
					continue
				}
				s.recalled, s.ended = now+recallWait, make(chan struct{})
				fresh = append(fresh, s)
			}
			waited = append(waited, s)
		}
	}
	return waited, fresh
}

// frees reports whether the return of s may give something back to a limit that has denied
// a call of a model.
func (s *lentSlice) frees(model string, limits []limiter.LimitState) bool {
	for i := range limits {
		st := &limits[i]
		if !st.Exceeded || st.Shadow {
			continue
		}
		for _, l := range s.limits {
			if l.name == st.Name && l.scope == st.Scope && l.perModel == st.PerModel && (!l.perModel || s.model == model) {
				return true
			}
		}
	}
	return false
}

// pruneLocked forgets the slices of a key whose lease has ended.
func (l *lender) pruneLocked(k *lentKey, now time.Duration) {
	expired := 0
	k.slices = slices.DeleteFunc(k.slices, func(s *lentSlice) bool {
		over := now >= s.until
		if over {
			l.endLocked(k, s)
			expired++
		}
		return over
	})
	if expired > 0 {
		l.expired(expired)
	}
}

// sweep forgets slices whose lease has ended, and who has not asked lately.
func (l *lender) sweep() {
	if l.keys.Load() == 0 {
		return
	}
	now := l.now()
	for i := range l.partitions {
		p := &l.partitions[i]
		p.Lock()
		for key, k := range p.keys {
			l.pruneLocked(k, now)
			k.askers = slices.DeleteFunc(k.askers, func(a sliceAsker) bool { return now-a.last > maxIdle })
			if len(k.askers)+len(k.slices) == 0 {
				delete(p.keys, key)
				l.keys.Add(-1)
			}
		}
		if len(p.keys) == 0 {
			p.keys = nil
		}
		p.Unlock()
	}
}

// forget forgets the slices of the partitions that this member does not own any more. Their
// owner has them with the other charges.
func (l *lender) forget(mine func(partition int) bool) {
	if l.keys.Load() == 0 {
		return
	}
	for i := range l.partitions {
		p := &l.partitions[i]
		p.Lock()
		if len(p.keys) > 0 && !mine(i) {
			for _, k := range p.keys {
				for _, s := range k.slices {
					l.endLocked(k, s)
				}
			}
			l.keys.Add(-int64(len(p.keys)))
			p.keys = nil
		}
		p.Unlock()
	}
}
