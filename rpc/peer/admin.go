// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"strings"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Administer sends a call of an operator to the owner of its key, and returns its answer. A
// change is answered when the heir has it. If its id is sent again, it is not made again. The
// error has a gRPC status; Unavailable means that it is not known whether a change was made.
func (r *Router) Administer(ctx context.Context, c *pb.AdminCall) (*pb.AdminAnswer, error) {
	results := r.Do(ctx, []call.Call{call.Of(c)})
	defer results.Release()
	result := results.Get(0)
	return result.GetAdmin(), server.ErrorOf(result)
}

// recallFor recalls the slices that changes by operators concern, and waits until they are
// returned, for recallWait at most: what is lent cannot be reset, and a reservation that was
// made from a slice ends at the owner only when it has come back.
func (r *Router) recallFor(ctx context.Context, calls []call.Call) {
	var waited, fresh []*lentSlice
	v := r.table.Load()
	for i := range calls {
		if c := calls[i].Admin(); c != nil && c.GetInspect() == nil && calls[i].Err == nil {
			waited, fresh = r.lender.recallKey(waited, fresh, calls[i].Partition, calls[i].Key, reachableBy(v))
		}
	}
	if len(waited) == 0 {
		return
	}
	r.sendRecalls(v, fresh)
	r.awaitAll(ctx, waited)
}

// awaitAll waits until all slices are returned, for recallWait at most.
func (r *Router) awaitAll(ctx context.Context, waited []*lentSlice) {
	timer := time.NewTimer(recallWait)
	defer timer.Stop()
	for _, s := range waited {
		select {
		case <-s.ended:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// isUnder reports whether a key is another one or below it.
func isUnder(key, parent string) bool {
	rest, ok := strings.CutPrefix(key, parent)
	return ok && (rest == "" || rest[0] == '/')
}

// recallKey is recall for all slices of a key, and of keys below it.
func (l *lender) recallKey(waited, fresh []*lentSlice, partition int, key string, reachable func(askerName) bool) (_, _ []*lentSlice) {
	now := l.now()
	p := &l.partitions[partition]
	p.Lock()
	defer p.Unlock()
	for _, k := range p.keys {
		l.pruneLocked(k, now)
		for _, s := range k.slices {
			if !isUnder(s.key, key) || s.recalled != 0 && s.recalled <= now {
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

// lent lists up to n slices of a key, and of keys below it.
func (l *lender) lent(partition int, key string, n int) (list []*pb.LentSlice) {
	now := l.now()
	p := &l.partitions[partition]
	p.Lock()
	defer p.Unlock()
	for _, k := range p.keys {
		l.pruneLocked(k, now)
		for _, s := range k.slices {
			if len(list) < n && isUnder(s.key, key) {
				list = append(list, &pb.LentSlice{Key: s.key, Holder: s.holder.text, Member: s.holder.member, Calls: s.calls, LeftNanos: int64(s.until - now)})
			}
		}
	}
	return list
}

// maxLentListed is how many slices of a key are listed.
const maxLentListed = 100

// completeStates adds to the states of keys what this member knows as their owner.
func (r *Router) completeStates(calls []call.Call, results *server.Results) {
	for i := range calls {
		if calls[i].Kind != call.Admin {
			continue
		}
		if state := results.State(i); state != nil {
			place := r.owners.Place(calls[i].Partition)
			state.Heir, state.Term, state.Partition = place.Heir.Name, place.Term, int32(calls[i].Partition)
			state.Slices = r.lender.lent(calls[i].Partition, calls[i].Key, maxLentListed)
		}
	}
}
