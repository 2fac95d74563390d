// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// awayCalls are the calls that wait at other members. They are safe for concurrent use.
type awayCalls struct {
	mu   sync.Mutex
	list map[*waiting]struct{}
}

func (a *awayCalls) add(w *waiting) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.list == nil {
		a.list = map[*waiting]struct{}{}
	}
	a.list[w] = struct{}{}
}

func (a *awayCalls) remove(w *waiting) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.list, w)
}

func (a *awayCalls) all() []*waiting {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.list))
}

// wait has the calls of an API wait that were denied and may, until each has its result, its
// caller has gone, or this member leaves the cluster. What another member may have charged for the
// others is withdrawn.
func (r *Router) wait(ctx context.Context, calls []call.Call, results *server.Results) {
	var list []*waiting
	var index []int
	var answers []chan *pb.Result
	for i := range calls {
		if calls[i].Origin != call.API || !results.MayWait(i) {
			if calls[i].Unanswered {
				r.withdraw(&calls[i])
			}
			continue
		}
		var left time.Duration
		if at, ok := ctx.Deadline(); ok {
			left = beforeDeadline(time.Until(at))
		}
		w := r.newWaiting(&calls[i], 0, left)
		denial := results.Get(i)
		w.boundBy(denial.GetDecision())
		w.keepDenial(denial)
		answer := make(chan *pb.Result, 1)
		w.done = func(result *pb.Result) { answer <- result }
		list, index, answers = append(list, w), append(index, i), append(answers, answer)
	}
	if len(list) == 0 {
		return
	}
	defer r.local.CallerWaits()()
	for _, w := range list {
		w.ask()
	}
	for j, w := range list {
		select {
		case result := <-answers[j]:
			results.Set(index[j], result)
		case <-ctx.Done():
			w.discard()
			results.SetError(index[j], grpcstatus.FromContextError(ctx.Err()).Err())
		case <-r.drain:
			result := w.callerGone()
			if result == nil {
				result = w.lastDenial()
			}
			results.Set(index[j], result)
		}
	}
}

// PolicyChanged has the calls that wait here tried by the policy of now.
func (r *Router) PolicyChanged() { r.local.PolicyChanged() }

// moveWaiting has the calls that wait for partitions of other members asked again there.
func (r *Router) moveWaiting() {
	v, now := r.table.Load(), r.owners.Clock()
	r.local.MoveWaiting(func(partition int) bool { return r.mine(v, partition, now) })
	for _, w := range r.away.all() {
		w.followOwner(v)
	}
}
