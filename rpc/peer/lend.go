// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/slice"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// decide has this member decide the calls that have no result yet. If a limit denies one
// while members hold slices of it, these are recalled, and the call is decided again. So are
// hits that would be over the limit of their counter, and are not counted before. Slices are
// lent with the answers to checks, reserves and counts.
func (r *Router) decide(ctx context.Context, calls []call.Call, results *server.Results) {
	if r.lender.outstanding.Load() == 0 {
		r.local.Decide(calls, results)
	} else {
		r.recallFor(ctx, calls)
		began := time.Now()
		results.KeepDenials()
		r.local.Decide(calls, results)
		took := time.Since(began)
		r.noteReturns(calls, results)
		if again := r.recall(ctx, calls, results); len(again) > 0 {
			r.local.DecideAgain(calls, again, results)
		}
		r.local.CountDenials(results, took)
	}
	r.completeStates(calls, results)
	r.lend(calls, results)
}

// noteReturns has the lender forget the slices that were returned.
func (r *Router) noteReturns(calls []call.Call, results *server.Results) {
	for i := range calls {
		if c := &calls[i]; c.Kind == call.SliceReturn && results.Change(i).Decided && r.lender.returned(c.Partition, c.Key, c.SliceReturn().GetSlice(), c.SliceReturn().GetCalls()) {
			r.metrics.slicesReturned.Inc()
		}
	}
}

// recall asks for the slices whose return may make room for denied calls, and waits until
// they are returned, for recallWait at most. It returns the calls to be decided again: hits that
// wait are among them in any case, because they are not counted yet.
//
// Concurrent denials share one recall. A holder that does not return its slice in time
// delays no denial after that.
func (r *Router) recall(ctx context.Context, calls []call.Call, results *server.Results) (again []int) {
	var waited, fresh []*lentSlice
	v := r.table.Load()
	for i := range calls {
		limits := results.Denied(i)
		if limits == nil {
			continue
		}
		before := len(waited)
		waited, fresh = r.lender.recall(waited, fresh, calls[i].Partition, modelOf(&calls[i]), limits, reachableBy(v))
		if len(waited) > before || calls[i].Kind == call.Count {
			again = append(again, i)
		}
	}
	if len(waited) == 0 {
		return again
	}
	r.sendRecalls(v, fresh)
	if !r.awaitReturns(ctx, waited) {
		again = slices.DeleteFunc(again, func(i int) bool { return calls[i].Kind != call.Count })
	}
	return again
}

// recallLow recalls the slices of limits of which too little is left to lend: near its end, each
// call is for the owner. It does not wait.
func (r *Router) recallLow(c *call.Call, limits []limiter.LimitState) {
	var low []limiter.LimitState
	for _, l := range limits {
		if l.Cost > 0 && slice.IsLow(l.Remaining, l.Capacity) {
			l.Exceeded = true
			low = append(low, l)
		}
	}
	if len(low) == 0 {
		return
	}
	v := r.table.Load()
	_, fresh := r.lender.recall(nil, nil, c.Partition, modelOf(c), low, reachableBy(v))
	r.sendRecalls(v, fresh)
}

// reachableBy returns who can be sent a recall: members with a connection.
func reachableBy(v *routingTable) func(askerName) bool {
	return func(holder askerName) bool { return holder.member && connectionTo(v, holder.text) != nil }
}

// connectionTo returns the connection to a member; nil if there is none.
func connectionTo(v *routingTable, name string) *peer {
	if m := v.member(name); m != nil {
		return m.peer
	}
	return nil
}

// modelOf returns the model under which the limits of a check or a reserve count it, or what
// tells the counters of a key apart, which is no model.
func modelOf(c *call.Call) string {
	if q := c.Count(); q != nil {
		return fmt.Sprintf("\x01%d %d", q.GetUnit(), max(q.GetUnitMultiplier(), 1))
	}
	if q := c.Check(); q != nil {
		return cmp.Or(q.GetModel(), "*")
	}
	return cmp.Or(c.Reserve().GetModel(), "*")
}

// sendRecalls sends one recall for each holder and key. It does not wait for the answers:
// what counts is the returns.
func (r *Router) sendRecalls(v *routingTable, fresh []*lentSlice) {
	slices.SortFunc(fresh, func(a, b *lentSlice) int {
		return cmp.Or(strings.Compare(a.holder.text, b.holder.text), strings.Compare(a.key, b.key))
	})
	fresh = slices.CompactFunc(fresh, func(a, b *lentSlice) bool { return a.holder == b.holder && a.key == b.key })
	for _, s := range fresh {
		to := connectionTo(v, s.holder.text)
		r.metrics.sliceRecalls.Inc()
		// The deadline is that of any call: a recall that comes late is still of use.
		ctx := link.WithDeadline(context.Background(), time.Now().Add(r.timeout))
		pending := to.link.Start(&ctx, &pb.Item{Call: &pb.Item_SliceRecall{SliceRecall: &pb.SliceRecall{Key: s.key}}})
		go func() { _, _ = pending.Wait(&ctx) }() // the link ends it
	}
}

// awaitReturns waits for slices, until all are returned or the denials do not wait any
// longer. It reports whether one was returned.
func (r *Router) awaitReturns(ctx context.Context, waited []*lentSlice) (any bool) {
	var until time.Duration
	for _, s := range waited {
		until = max(until, s.recalled)
	}
	timer := time.NewTimer(until - r.lender.now())
	defer timer.Stop()
	for i, s := range waited {
		select {
		case <-s.ended:
			any = true
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		for _, s := range waited[i:] {
			select {
			case <-s.ended:
				return true
			default:
			}
		}
		return any
	}
	return any
}

// forgetLent forgets the slices of partitions that this member does not own any more.
func (r *Router) forgetLent() {
	v, now := r.table.Load(), r.owners.Clock()
	r.lender.forget(func(partition int) bool { return r.mine(v, partition, now) })
}

// lend lends slices with the answers to calls whose senders take one. A slice is charged
// when it is lent, and answered only when the heir has that charge.
func (r *Router) lend(calls []call.Call, results *server.Results) {
	for i := range calls {
		c := &calls[i]
		if !c.TakesSlice || c.Asker == 0 { // nobody asked, or this member itself
			continue
		}
		rate, share, ok := results.Lendable(i)
		if !ok {
			continue
		}
		t, ok := r.lender.begin(c.Partition, c.Key, c.Asker, rate, share)
		if !ok {
			continue
		}
		name, known := r.askers.name(c.Asker)
		if !known { // its stream has just ended
			continue
		}
		loan := limiter.Loan{ID: requestid.Slice(name.text, rand.Uint64()), Client: !name.member, Share: t.share, Rate: t.rate, Holders: t.holders}
		if !r.local.Lend(results, i, &loan) {
			r.recallLow(c, results.Limits(i))
			continue
		}
		s := &lentSlice{id: loan.ID, key: strings.Clone(c.Key), asker: c.Asker, calls: loan.Calls, reserve: loan.Reserve, holder: name, model: strings.Clone(modelOf(c))}
		if loan.Reserve {
			s.calls = limiter.MaxKept // those that cost less than this one are more
		}
		for j, st := range results.Limits(i) {
			if j < len(loan.Amounts) && loan.Amounts[j] > 0 {
				s.limits = append(s.limits, lentLimit{name: st.Name, scope: strings.Clone(st.Scope), perModel: st.PerModel})
			}
		}
		r.lender.add(c.Partition, s, loan.Lease)
		r.metrics.slicesLent.Inc()
	}
}
