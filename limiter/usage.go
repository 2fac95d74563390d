// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/bucketring/bucketring/internal/growmap"
	"github.com/bucketring/bucketring/limiter/slice"
)

// Used is what calls have used, in tokens and microdollars.
type Used = slice.Used

// UsageTotal is what the calls of one tier and model were charged by this engine since it was
// made. It is counted once for each call, by the engine that decides the charge:
//
//   - a check when it is admitted;
//   - a reservation when it is settled or its lease expires, with what it used then;
//   - calls that others decided from a slice, when the slice is returned. Of a slice that is
//     not returned, checks count as if all of it had been spent; reserves do not count.
//
// Repeats of an id change nothing, nor does what an engine learns as a copy.
type UsageTotal struct {
	Tier string
	// Model is the entry of the price list that gave the price, see [Rates].Name, or "" for
	// models without one. After maxUsages pairs of a tier and a model, further models are "".
	Model string
	// Charged only grows. Refunded, which only grows too, is the part of it that was given back
	// later: a check or an expired reservation was withdrawn or cancelled, or a late settle
	// reported less than the expired lease was charged.
	Charged, Refunded Used
}

const (
	// maxUsages bounds the pairs of a tier and a model that are counted.
	maxUsages = 1000
	// usageStripes is how many counters of a pair there are, so that partitions rarely share
	// one.
	usageStripes = 16
)

// usages are the totals of an engine. Counting takes no lock, and allocates only for a pair of
// a tier and a model that was not counted before.
type usages struct {
	counters growmap.Map[usageName, *usageCounter]
}

type usageName struct{ tier, model string }

// usageCounter are the totals of one tier and model.
type usageCounter struct {
	usageName
	stripes [usageStripes]usageStripe
}

// usageStripe is a line of the CPU's cache.
type usageStripe struct{ charged, refunded [4]atomic.Int64 }

// of returns the counter of a tier and model.
func (u *usages) of(tier, model string) *usageCounter {
	name := usageName{tier, model}
	if c, ok := u.counters.Get(name); ok {
		return c
	}
	if len(u.counters.All()) >= maxUsages && model != "" {
		return u.of(tier, "")
	}
	return u.counters.Add(name, func() (usageName, *usageCounter) {
		// The names may be part of the memory of a policy, which should not live as long.
		c := &usageCounter{usageName: usageName{strings.Clone(tier), strings.Clone(model)}}
		return c.usageName, c
	})
}

// change counts that what a call of a root has used is after, and was before.
func (c *usageCounter) change(root uint64, before, after Used) {
	s := &c.stripes[root%Partitions%usageStripes]
	from, to := usedParts(before), usedParts(after)
	for i := range to {
		switch delta := to[i] - from[i]; {
		case delta > 0:
			addSaturated(&s.charged[i], delta)
		case delta < 0:
			addSaturated(&s.refunded[i], -delta)
		}
	}
}

// usedParts returns the parts of u that are counted on their own: cached input is not in the
// other input.
func usedParts(u Used) [4]int64 { return [...]int64{u.Input - u.Cached, u.Cached, u.Output, u.Spend} }

// addSaturated adds n, which is not negative. A sum that would be too large stays the largest.
func addSaturated(sum *atomic.Int64, n int64) {
	if sum.Add(n) < 0 {
		sum.Store(math.MaxInt64)
	}
}

// Usage returns what calls were charged, sorted by tier and model; nothing unless
// [Options].CountUsage is set. It takes no lock, so the sums are not of one instant.
func (e *Engine) Usage() []UsageTotal {
	if e.usages == nil {
		return nil
	}
	known := e.usages.counters.All()
	totals := make([]UsageTotal, 0, len(known))
	for name, c := range known {
		var charged, refunded [4]int64
		for i := range c.stripes {
			for part := range charged {
				charged[part] = satAdd(charged[part], read(&c.stripes[i].charged[part]))
				refunded[part] = satAdd(refunded[part], read(&c.stripes[i].refunded[part]))
			}
		}
		totals = append(totals, UsageTotal{Tier: name.tier, Model: name.model, Charged: usedOf(charged), Refunded: usedOf(refunded)})
	}
	slices.SortFunc(totals, func(a, b UsageTotal) int {
		return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Model, b.Model))
	})
	return totals
}

// read returns a sum, which is too large for a moment before addSaturated has corrected it.
func read(sum *atomic.Int64) int64 {
	if n := sum.Load(); n >= 0 {
		return n
	}
	return math.MaxInt64
}

func usedOf(parts [4]int64) Used {
	return Used{Input: satAdd(parts[0], parts[1]), Cached: parts[1], Output: parts[2], Spend: parts[3]}
}

// usageOf returns the counter of a tier and model, nil if usage is not counted.
func (p *partition) usageOf(tier, model string) *usageCounter {
	if p.engine.usages == nil {
		return nil
	}
	if c := p.lastUsage; c != nil && c.tier == tier && c.model == model {
		return c
	}
	p.lastUsage = p.engine.usages.of(tier, model)
	return p.lastUsage
}

// usageOfEntry returns the counter of a reservation, nil if usage is not counted.
func (p *partition) usageOfEntry(entry *idEntry) *usageCounter {
	if p.engine.usages == nil {
		return nil
	}
	terms := p.terms.at(entry.terms())
	return p.usageOf(terms.tier, terms.Name)
}

// countCheck counts a check that was admitted or, if it is withdrawn, that it costs nothing.
func (p *partition) countCheck(root uint64, r *Request, withdrawn bool) {
	c := p.usageOf(r.Plan.Tier, r.Plan.Rates.Name)
	if c == nil {
		return
	}
	var v vector
	_ = r.cost(&r.Plan.Rates, Estimate{}, r.OutputTokens, false, &v) // an error has ended the call before
	used := Used{Input: r.InputTokens, Output: r.OutputTokens, Spend: v.spend(&r.Plan.Rates)}
	if withdrawn {
		c.change(root, used, Used{})
	} else {
		c.change(root, Used{}, used)
	}
}

// countedUse returns what was counted of a reservation until now: nothing unless its lease has
// expired. Then it is the input or the progress, whichever is more.
func (p *partition) countedUse(entry *idEntry) Used {
	if p.engine.usages == nil || entry.state() != idExpired {
		return Used{}
	}
	res, terms := p.reservations.at(entry.reservation()), p.terms.at(entry.terms())
	var input, progress vector
	// Both were computed before without an error.
	_ = terms.cost(amounts{input: res.input}, extras{}, terms.basis, &input)
	_ = terms.cost(res.progress, p.extrasOf(entry), terms.basis, &progress)
	return Used{
		Input: max(res.input, res.progress.input), Cached: res.progress.cached, Output: res.progress.output,
		Spend: max(input.spend(&terms.Rates), progress.spend(&terms.Rates)),
	}
}

// countUse counts that what a reservation has used is after, and was counted as before.
func (p *partition) countUse(root uint64, entry *idEntry, before, after Used) {
	if c := p.usageOfEntry(entry); c != nil {
		c.change(root, before, after)
	}
}

// usedBy returns amounts with their cost, as they are counted.
func usedBy(n amounts, v *vector, r *Rates) Used {
	return Used{Input: n.input, Cached: n.cached, Output: n.output, Spend: v.spend(r)}
}

// spend returns the price, 0 if there is none.
func (v *vector) spend(r *Rates) int64 {
	if !r.Priced {
		return 0
	}
	return v[dimSpend]
}

// A slice for checks keeps what one of them uses, and how many it was lent for, in the fields
// for the usage of a reservation. In a slice for reserves or of a counter they are 0.

func (res *reservation) setSliceChecks(r *Request, calls int64) {
	res.input, res.progress = r.InputTokens, amounts{input: calls, output: r.OutputTokens}
}

// countSpent counts what was spent of a slice: used by reserves, or by checks of which spent
// has the costs, in the order of its charges. Nil: it was spent in full.
func (p *partition) countSpent(root uint64, entry *idEntry, spent []int64, used Used) {
	c := p.usageOfEntry(entry)
	if c == nil {
		return
	}
	res := p.reservations.at(entry.reservation())
	lent := res.progress.input
	if lent == 0 {
		c.change(root, Used{}, used)
		return
	}
	calls := lent
	if spent != nil {
		calls = p.callsOf(entry, lent, spent)
	}
	terms := p.terms.at(entry.terms())
	n := amounts{input: res.input, output: res.progress.output}
	var v vector
	_ = terms.cost(n, extras{}, terms.basis, &v) // an error has ended the check before
	c.change(root, Used{}, Used{Input: times(n.input, calls), Output: times(n.output, calls), Spend: times(v.spend(&terms.Rates), calls)})
}

// callsOf returns how many of the checks that a slice was lent for have spent that much.
func (p *partition) callsOf(entry *idEntry, lent int64, spent []int64) int64 {
	var it chargeIterator
	i := 0
	for it.start(p, entry, ""); it.next(); i++ {
		if one := it.charge.estimate / lent; one > 0 && i < len(spent) {
			return spent[i] / one
		}
	}
	return 0
}

// times returns a*b, or the largest number if that is larger. Neither is negative.
func times(a, b int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi != 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo)
}

// checkUsed returns an error unless u may have been used by the reserves of a slice.
func checkUsed(u *Used) error {
	for _, f := range [...]struct {
		name  string
		value int64
	}{{"used.input_tokens", u.Input}, {"used.cached_input_tokens", u.Cached}, {"used.output_tokens", u.Output}, {"used.spend_micros", u.Spend}} {
		if f.value < 0 || f.value > MaxAmount {
			return numberError(f.name, f.value, "must be between 0 and 2^53")
		}
	}
	if u.Cached > u.Input {
		return numberError("used.cached_input_tokens", u.Cached, "must not be more than used.input_tokens")
	}
	return nil
}
