// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/await"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// waits is the tier of a limit of one slot, for which calls may wait.
const waits = "waits"

// reserving is a unary reserve in progress.
type reserving struct {
	decision *pb.Decision
	err      error
	done     chan struct{}
}

func (n *node) reserveSoon(ctx context.Context, key, id string) *reserving {
	r := &reserving{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.decision, r.err = n.Reserve(ctx, &pb.ReserveRequest{Key: key, Tier: waits, RequestId: id})
	}()
	return r
}

// want waits for the outcome of a reserve.
func (r *reserving) want(t *testing.T, name string, want pb.Outcome) *pb.Decision {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(testWait):
		t.Fatalf("%s: no answer", name)
	}
	if r.err != nil || r.decision.GetOutcome() != want {
		t.Fatalf("%s: %v, %v; want %v", name, r.decision, r.err, want)
	}
	if r.decision.GetMayWait() {
		t.Errorf("%s: the answer of an API says may_wait", name)
	}
	return r.decision
}

// wantWaiting waits until so many calls wait at n.
func (n *node) wantWaiting(want int64) {
	n.t.Helper()
	for end := time.Now().Add(testWait); n.local.Waiting().Standard != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("%d calls wait at %s, want %d", n.local.Waiting().Standard, n.name, want)
		}
	}
}

func (n *node) settle(key, id string) {
	n.t.Helper()
	if _, err := n.Settle(n.t.Context(), &pb.SettleRequest{Key: key, RequestId: id}); err != nil {
		n.t.Fatalf("settle %s: %v", id, err)
	}
}

// A call waits at its owner, whichever member was asked.
func TestWait(t *testing.T) {
	nodes := newCluster(t, 2)
	owner, other := nodes[1], nodes[0]
	key := owner.ownedBy(0)
	owner.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	here := owner.reserveSoon(t.Context(), key, "here")
	owner.wantWaiting(1)
	there := other.reserveSoon(t.Context(), key, "there")
	owner.wantWaiting(2)
	owner.settle(key, "a")
	if d := here.want(t, "asked at the owner", pb.Outcome_OUTCOME_ALLOWED); d.GetPlace() != 1 || d.GetRoute() != pb.Route_ROUTE_LOCAL {
		t.Errorf("here: %v", d)
	}
	other.settle(key, "here")
	if d := there.want(t, "asked at another member", pb.Outcome_OUTCOME_ALLOWED); d.GetPlace() != 2 || d.GetRoute() != pb.Route_ROUTE_FORWARD || d.GetOwner() != owner.name {
		t.Errorf("there: %v", d)
	}
	d, err := other.Reserve(t.Context(), &pb.ReserveRequest{Key: key, Tier: waits, MaxWait: durationpb.New(0)})
	if err != nil || d.GetOutcome() != pb.Outcome_OUTCOME_DENIED || d.GetWaited() != nil {
		t.Errorf("max_wait 0: %v, %v", d, err)
	}
	short := &reserving{done: make(chan struct{})}
	go func() {
		defer close(short.done)
		short.decision, short.err = other.Reserve(t.Context(), &pb.ReserveRequest{Key: key, Tier: waits, MaxWait: durationpb.New(20 * time.Millisecond)})
	}()
	owner.wantWaiting(1)
	owner.clock.elapsed.Add(int64(20 * time.Millisecond))
	if d := short.want(t, "max_wait 20ms", pb.Outcome_OUTCOME_DENIED); d.GetWaited().AsDuration() != 20*time.Millisecond {
		t.Errorf("max_wait 20ms: waited %v", d.GetWaited().AsDuration())
	}
}

// A caller that goes leaves no charge and no place, wherever it asked.
func TestCallerOfAWaitGoes(t *testing.T) {
	nodes := newCluster(t, 2)
	owner := nodes[1]
	key := owner.ownedBy(0)
	owner.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	for _, asked := range nodes {
		ctx, cancel := context.WithCancel(t.Context())
		gone := asked.reserveSoon(ctx, key, "gone at "+asked.name)
		owner.wantWaiting(1)
		cancel()
		<-gone.done
		if c := grpcstatus.Code(gone.err); c != codes.Canceled {
			t.Errorf("%s: %v, want Canceled", asked.name, gone.err)
		}
		owner.wantWaiting(0)
	}
	owner.settle(key, "a")
	owner.reserveSoon(t.Context(), key, "next").want(t, "the next", pb.Outcome_OUTCOME_ALLOWED)
}

// Calls that wait when the owner changes are asked again at the next one, in their order.
func TestWaitWhileTheOwnerChanges(t *testing.T) {
	nodes := newCluster(t, 3)
	owner, next, other := nodes[1], nodes[2], nodes[0]
	key := owner.ownedBy(0)
	owner.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	first := other.reserveSoon(t.Context(), key, "first")
	owner.wantWaiting(1)
	owner.clock.elapsed.Add(int64(time.Second)) // so that the next owner knows who came first
	for _, n := range nodes {
		n.owners.clock.Add(int64(time.Second))
	}
	second := owner.reserveSoon(t.Context(), key, "second")
	owner.wantWaiting(2)
	// The next owner knows the slot, as after a move.
	if _, err := next.local.Charge(t.Context(), batchOf(&pb.ReserveRequest{Key: key, Tier: waits, RequestId: "a"})); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		n.owners.give(key, next)
		n.OwnersChanged()
	}
	next.wantWaiting(2)
	owner.wantWaiting(0)
	next.settle(key, "a")
	if d := first.want(t, "first", pb.Outcome_OUTCOME_ALLOWED); d.GetOwner() != next.name {
		t.Errorf("first: %v", d)
	}
	next.settle(key, "first")
	second.want(t, "second", pb.Outcome_OUTCOME_ALLOWED)
}

// A client has calls wait by a stream, at any member.
func TestWaitStream(t *testing.T) {
	nodes := newCluster(t, 2)
	owner, other := nodes[1], nodes[0]
	key := owner.ownedBy(0)
	owner.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	for _, asked := range []*node{owner, other} {
		client := pb.NewRateLimiterClient(asked.conn())
		asker := await.New(func(ctx context.Context) (await.Stream, error) { return client.Wait(ctx) })
		t.Cleanup(asker.Close)
		type answer struct {
			result *pb.Result
			err    error
		}
		answers := make(chan answer, 2)
		asker.Start(itemOf(&pb.ReserveRequest{Key: key, Tier: waits, RequestId: "b at " + asked.name}), func(r *pb.Result, err error) { answers <- answer{r, err} })
		owner.wantWaiting(1)
		leave := asker.Start(itemOf(&pb.ReserveRequest{Key: key, Tier: waits, RequestId: "c at " + asked.name}), func(r *pb.Result, err error) { answers <- answer{r, err} })
		owner.wantWaiting(2)
		leave()
		owner.wantWaiting(1)
		owner.settle(key, map[bool]string{true: "a", false: "b at " + owner.name}[asked == owner])
		a := <-answers
		if a.err != nil || a.result.GetDecision().GetOutcome() != pb.Outcome_OUTCOME_ALLOWED {
			t.Errorf("%s: %v, %v", asked.name, a.result, a.err)
		}
		for name, item := range map[string]*pb.Item{
			"call":         itemOf(&pb.PeekRequest{Key: key}),
			"key":          itemOf(&pb.CheckRequest{}),
			"waited_nanos": {Call: itemOf(&pb.CheckRequest{Key: key}).Call, WaitedNanos: -1},
			"max_wait":     itemOf(&pb.CheckRequest{Key: key, MaxWait: durationpb.New(limiter.MaxMaxWait + 1)}),
		} {
			result, err := asker.Ask(t.Context(), item)
			if err != nil || result.GetError().GetField() != name || codes.Code(result.GetError().GetCode()) != codes.InvalidArgument {
				t.Errorf("%s: wrong %s: %v, %v", asked.name, name, result, err)
			}
		}
	}
}

// Many calls wait and are admitted one after the other, whoever was asked: never two at once.
func TestWaitMany(t *testing.T) {
	nodes := newCluster(t, 3)
	key := nodes[1].ownedBy(0)
	var all []*reserving
	for i := range 60 {
		all = append(all, nodes[i%3].reserveSoon(t.Context(), key, fmt.Sprint("r", i)))
	}
	pending := map[string]*reserving{}
	for i, r := range all {
		pending[fmt.Sprint("r", i)] = r
	}
	for len(pending) > 0 {
		admitted := ""
		for end := time.Now().Add(testWait); admitted == ""; time.Sleep(100 * time.Microsecond) {
			if time.Now().After(end) {
				t.Fatalf("%d calls wait, and none is admitted", len(pending))
			}
			for id, r := range pending {
				select {
				case <-r.done:
					admitted = id
				default:
				}
			}
		}
		pending[admitted].want(t, admitted, pb.Outcome_OUTCOME_ALLOWED)
		delete(pending, admitted)
		if used := nodes[1].used(key, waits, "concurrent"); used != 1 {
			t.Fatalf("%d slots are taken, want 1", used)
		}
		nodes[2].settle(key, admitted)
	}
}

// At an owner of an earlier version no call waits: the denial is the answer.
func TestWaitAtAnEarlierVersion(t *testing.T) {
	nodes := newCluster(t, 2)
	owner, other := nodes[1], nodes[0]
	key := owner.ownedBy(0)
	owner.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	to := other.table.Load().member(owner.name).peer
	to.waits.Close()
	to.waits = await.New(func(context.Context) (await.Stream, error) {
		return nil, grpcstatus.Error(codes.Unimplemented, "unknown method Wait")
	})
	other.reserveSoon(t.Context(), key, "b").want(t, "b", pb.Outcome_OUTCOME_DENIED)
}

// When the owner dies, those who wait are asked again at the next one.
func TestWaitWhileTheOwnerDies(t *testing.T) {
	nodes := newCluster(t, 3)
	owner, next, other := nodes[1], nodes[2], nodes[0]
	key := owner.ownedBy(0)
	owner.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	waiting := other.reserveSoon(t.Context(), key, "b")
	owner.wantWaiting(1)
	if _, err := next.local.Charge(t.Context(), batchOf(&pb.ReserveRequest{Key: key, Tier: waits, RequestId: "a"})); err != nil {
		t.Fatal(err)
	}
	owner.kill()
	for _, n := range []*node{next, other} {
		n.owners.give(key, next)
		n.OwnersChanged()
	}
	next.wantWaiting(1)
	next.settle(key, "a")
	if d := waiting.want(t, "b", pb.Outcome_OUTCOME_ALLOWED); d.GetOwner() != next.name || d.GetRoute() != pb.Route_ROUTE_FORWARD {
		t.Errorf("b: %v", d)
	}
}

// A member that leaves answers those who wait by its APIs, and lets go of streams.
func TestWaitWhileAMemberLeaves(t *testing.T) {
	nodes := newCluster(t, 2)
	owner, leaver := nodes[1], nodes[0]
	key := owner.ownedBy(0)
	owner.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	waiting := leaver.reserveSoon(t.Context(), key, "b")
	client := pb.NewRateLimiterClient(leaver.conn())
	asker := await.New(func(ctx context.Context) (await.Stream, error) { return client.Wait(ctx) })
	t.Cleanup(asker.Close)
	broken := make(chan error, 1)
	asker.Start(itemOf(&pb.ReserveRequest{Key: key, Tier: waits, RequestId: "c"}), func(_ *pb.Result, err error) { broken <- err })
	owner.wantWaiting(2)
	leaver.Drain()
	waiting.want(t, "b", pb.Outcome_OUTCOME_DENIED)
	select {
	case err := <-broken:
		if !errors.Is(err, await.ErrBroken) {
			t.Errorf("c: %v, want ErrBroken", err)
		}
	case <-time.After(testWait):
		t.Fatal("c: no answer")
	}
	owner.wantWaiting(0)
}

// Any member tells what waits in the whole cluster, at which limit and owner.
func TestWaitingLimits(t *testing.T) {
	nodes := newCluster(t, 3)
	var want []*pb.WaitingLimit
	for i, n := range nodes[:2] {
		key := n.ownedBy(0)
		n.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
		for call := range 2 - i {
			nodes[2].reserveSoon(t.Context(), key, fmt.Sprint("b", call))
		}
		n.wantWaiting(int64(2 - i))
		n.clock.elapsed.Add(int64(time.Second)) // of all members
		want = append(want, &pb.WaitingLimit{
			Scope: key, Name: "slots", Dimension: "concurrent", Owner: n.name,
			Calls: &pb.WaitingCalls{Standard: int64(2 - i)}, Longest: durationpb.New(time.Duration(2-i) * time.Second),
		})
	}
	for _, n := range nodes {
		found, err := n.HotKeys(t.Context(), &pb.HotKeysRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, found.GetWaiting(), protocmp.Transform()); diff != "" {
			t.Errorf("by %s (-want +got):\n%s", n.name, diff)
		}
		for i, m := range found.GetMembers() {
			if got := m.GetWaiting().GetStandard(); got != int64(2-i) {
				t.Errorf("%d calls wait at %s, by %s, want %d", got, m.GetMember(), n.name, 2-i)
			}
		}
	}
	for _, n := range nodes[:2] {
		n.settle(n.ownedBy(0), "a")
	}
}

// A caller that goes at the moment at which it is admitted leaves nothing charged, unless it has
// its answer.
func TestCallerOfAWaitGoesAsItIsAdmitted(t *testing.T) {
	nodes := newCluster(t, 2)
	owner, other := nodes[1], nodes[0]
	key := owner.ownedBy(0)
	for i := range 50 {
		asked := nodes[i%2]
		a, b := fmt.Sprint("a", i), fmt.Sprint("b", i)
		owner.reserveSoon(t.Context(), key, a).want(t, a, pb.Outcome_OUTCOME_ALLOWED)
		ctx, cancel := context.WithCancel(t.Context())
		waiting := asked.reserveSoon(ctx, key, b)
		owner.wantWaiting(1)
		settled := make(chan error, 1)
		go func() {
			_, err := other.Settle(t.Context(), &pb.SettleRequest{Key: key, RequestId: a})
			settled <- err
		}()
		cancel()
		<-waiting.done
		if err := <-settled; err != nil {
			t.Fatal(err)
		}
		if waiting.err == nil {
			waiting.want(t, b, pb.Outcome_OUTCOME_ALLOWED)
			owner.settle(key, b)
		}
		owner.wantSlots(key, 0)
	}
}

// wantSlots waits until so many slots are taken at n.
func (n *node) wantSlots(key string, want int64) {
	n.t.Helper()
	for end := time.Now().Add(testWait); n.used(key, waits, "concurrent") != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("%d slots are taken at %s, want %d", n.used(key, waits, "concurrent"), n.name, want)
		}
	}
}

// A call that leaves its stream leaves nothing charged, also if its answer came before and was not
// sent.
func TestCallerOfAWaitStreamGoesAsItIsAdmitted(t *testing.T) {
	nodes := newCluster(t, 2)
	owner := nodes[1]
	key := owner.ownedBy(0)
	for _, asked := range nodes {
		a, b := "a of "+asked.name, "b of "+asked.name
		owner.reserveSoon(t.Context(), key, a).want(t, a, pb.Outcome_OUTCOME_ALLOWED)
		item := itemOf(&pb.ReserveRequest{Key: key, Tier: waits, RequestId: b})
		c := call.FromItem(item, call.API)
		unsent := make(chan *pb.Result, 1)
		leave := asked.beginWait(&c, item, false, func(r *pb.Result) { unsent <- r })
		owner.wantWaiting(1)
		owner.settle(key, a)
		if r := <-unsent; !isAdmitted(r) {
			t.Fatalf("%s: %v", asked.name, r)
		}
		leave()
		owner.wantSlots(key, 0)
	}
}

// A call that waits at a member that does not answer is asked again when it has another owner.
func TestWaitWhileTheOwnerIsSilent(t *testing.T) {
	nodes := newCluster(t, 3)
	owner, next, other := nodes[1], nodes[2], nodes[0]
	key := owner.ownedBy(0)
	owner.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	waiting := other.reserveSoon(t.Context(), key, "b")
	owner.wantWaiting(1)
	if _, err := next.local.Charge(t.Context(), batchOf(&pb.ReserveRequest{Key: key, Tier: waits, RequestId: "a"})); err != nil {
		t.Fatal(err)
	}
	owner.listener.setFrozen(true)
	for _, n := range []*node{next, other} {
		n.owners.give(key, next)
		n.OwnersChanged()
	}
	next.wantWaiting(1)
	next.settle(key, "a")
	if d := waiting.want(t, "b", pb.Outcome_OUTCOME_ALLOWED); d.GetOwner() != next.name {
		t.Errorf("b: %v", d)
	}
}

// A call whose owner was not reached for a while is not refused as one that was withdrawn.
func TestWaitWhileTheOwnerPauses(t *testing.T) {
	nodes := newCluster(t, 2, func(o *Options) { o.Timeout = 300 * time.Millisecond })
	owner, other := nodes[1], nodes[0]
	key := owner.ownedBy(0)
	owner.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	waiting := other.reserveSoon(t.Context(), key, "b")
	owner.wantWaiting(1)
	owner.listener.setFrozen(true)
	other.table.Load().member(owner.name).peer.waits.Close() // as if the stream had ended
	to := other.table.Load().member(owner.name)
	to.peer.waits = await.New(func(ctx context.Context) (await.Stream, error) { return other.openWaits(ctx, to.peer.conn, to.Member) })
	time.Sleep(time.Second) // it is asked, and denied in fallback
	owner.listener.setFrozen(false)
	time.Sleep(500 * time.Millisecond) // what it was asked has arrived
	owner.settle(key, "a")
	waiting.want(t, "b", pb.Outcome_OUTCOME_ALLOWED)
}

// A call whose owner cannot be reached waits no longer than the policy says, without a deadline too.
func TestWaitWithoutAnOwner(t *testing.T) {
	nodes := newCluster(t, 2, func(o *Options) { o.Timeout = 100 * time.Millisecond })
	owner, other := nodes[1], nodes[0]
	key := owner.ownedBy(0)
	owner.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	unary := other.reserveSoon(t.Context(), key, "b")
	item := itemOf(&pb.ReserveRequest{Key: key, Tier: waits, RequestId: "c"})
	c := call.FromItem(item, call.API)
	streamed := make(chan *pb.Result, 1)
	other.beginWait(&c, item, false, func(r *pb.Result) { streamed <- r })
	owner.wantWaiting(2)
	owner.kill()
	other.owners.clock.Add(int64(61 * time.Second)) // the policy says a minute
	unary.want(t, "b", pb.Outcome_OUTCOME_DENIED)
	select {
	case r := <-streamed:
		if r.GetDecision().GetOutcome() != pb.Outcome_OUTCOME_DENIED {
			t.Errorf("c: %v", r)
		}
	case <-time.After(testWait):
		t.Error("c: no answer")
	}
}

// A call that waits at a member which does not answer is denied when its time is over.
func TestWaitAtASilentOwner(t *testing.T) {
	nodes := newCluster(t, 2, func(o *Options) { o.Timeout = 200 * time.Millisecond })
	owner, other := nodes[1], nodes[0]
	key := owner.ownedBy(0)
	owner.reserveSoon(t.Context(), key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	waiting := &reserving{done: make(chan struct{})}
	go func() {
		defer close(waiting.done)
		waiting.decision, waiting.err = other.Reserve(t.Context(), &pb.ReserveRequest{Key: key, Tier: waits, RequestId: "b", MaxWait: durationpb.New(200 * time.Millisecond)})
	}()
	owner.wantWaiting(1)
	owner.listener.setFrozen(true)
	waiting.want(t, "b", pb.Outcome_OUTCOME_DENIED)
	owner.listener.setFrozen(false)
	owner.wantWaiting(0) // it has left
	owner.settle(key, "a")
	owner.wantSlots(key, 0)
}

// Owners change at random while calls wait and callers go at random. Each call has its answer, and in
// the end nobody waits. State does not move here: what is charged is tested with real owners, see
// TestWaitersWhileOwnersChange of the client.
func TestWaitWhileOwnersChangeAtRandom(t *testing.T) {
	nodes := newCluster(t, 3, func(o *Options) { o.Timeout = 500 * time.Millisecond })
	keys := []string{nodes[0].ownedBy(0), nodes[1].ownedBy(0), nodes[2].ownedBy(0), nodes[2].ownedBy(1)}
	stop := time.Now().Add(2 * time.Second)
	var running sync.WaitGroup
	running.Go(func() { // time is ten times as fast, so that leases of lost slots end
		for at := time.Now(); time.Now().Before(stop.Add(time.Second)); time.Sleep(time.Millisecond) {
			passed := 10 * int64(time.Since(at))
			at = time.Now()
			nodes[0].clock.elapsed.Add(passed)
			for _, n := range nodes {
				n.owners.clock.Add(passed)
			}
		}
	})
	running.Go(func() {
		for time.Now().Before(stop) {
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
			key, to := keys[rand.IntN(len(keys))], nodes[rand.IntN(len(nodes))]
			for _, n := range nodes {
				n.owners.give(key, to)
				n.OwnersChanged()
			}
			nodes[rand.IntN(len(nodes))].PolicyChanged()
		}
	})
	var admitted atomic.Int64
	for i := range 60 {
		running.Go(func() {
			for j := 0; time.Now().Before(stop); j++ {
				n, key, id := nodes[rand.IntN(len(nodes))], keys[rand.IntN(len(keys))], fmt.Sprint(i, "-", j)
				patience := time.Duration(20+rand.IntN(500)) * time.Millisecond
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				began := time.Now()
				d, err := n.Reserve(ctx, &pb.ReserveRequest{Key: key, Tier: waits, RequestId: id})
				if took := time.Since(began); took > patience+5*time.Second {
					t.Errorf("a call was answered after %v", took)
				}
				if err == nil && d.GetOutcome() == pb.Outcome_OUTCOME_ALLOWED {
					admitted.Add(1)
					_, _ = n.Settle(t.Context(), &pb.SettleRequest{Key: key, RequestId: d.GetRequestId()}) // an error: its owner has gone
				}
				cancel()
			}
		})
	}
	running.Wait()
	for _, n := range nodes {
		n.wantWaiting(0)
		if left := len(n.away.all()); left != 0 {
			t.Errorf("%d calls of %s wait at other members", left, n.name)
		}
	}
	if admitted.Load() == 0 {
		t.Error("no call was admitted")
	}
	t.Logf("%d calls were admitted", admitted.Load())
}
