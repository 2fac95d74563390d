// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

func TestSettleLater(t *testing.T) {
	runHeld(t, func(t scene, n *fakeNode, r *client.Reservation) {
		costs := map[string]int64{"images": 2}
		if err := r.SettleLater(client.Usage{OutputTokens: new(int64(312)), Costs: costs}); err != nil {
			t.Errorf("SettleLater() = %v", err)
		}
		costs["images"] = 3 // it belongs to the caller
		if err := r.Cancel(t.Context()); err != nil {
			t.Errorf("Cancel() = %v, want nil", err)
		}
		if err := t.c.Flush(t.Context()); err != nil {
			t.Errorf("Flush() = %v", err)
		}
		want := settle(312, true)
		want.Costs = map[string]int64{"images": 2}
		wantSent(t, n, bringing(want))
		if s := t.c.Status(); s.PendingSettlements != 0 || s.DroppedSettlements != 0 {
			t.Errorf("Status() = %+v, want nothing waiting or dropped", s)
		}
	})
}

// A settlement is retried until a node accepts it.
func TestSettleLaterOutlastsAnOutage(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a", "b", "c"}, func(t scene) {
		var held []*client.Reservation
		for _, key := range keys(100) {
			r, err := t.c.Reserve(t.Context(), client.Estimate{Key: key})
			if err != nil {
				t.Fatalf("Reserve() = %v", err)
			}
			held = append(held, r)
		}
		for _, n := range t.nodes {
			n.kill()
		}
		start := time.Now()
		for _, r := range held {
			if err := r.SettleLater(client.Usage{OutputTokens: new(int64(312))}); err != nil {
				t.Errorf("SettleLater() = %v", err)
			}
		}
		wantTook(t, start, 0)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := t.c.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "100") {
			t.Errorf("Flush() = %v, want that 100 are left at the deadline", err)
		}
		if s := t.c.Status(); s.PendingSettlements != 100 || s.DroppedSettlements != 0 {
			t.Errorf("Status() = %+v, want 100 waiting", s)
		}
		time.Sleep(time.Minute)
		for _, n := range t.nodes {
			n.start()
		}
		if err := t.c.Flush(t.Context()); err != nil {
			t.Errorf("Flush() = %v", err)
		}
		settled := map[string]bool{}
		for _, n := range t.nodes {
			for _, m := range n.sent() {
				if s, ok := m.(*pb.SettleRequest); ok && s.GetOutputTokens() == 312 {
					settled[s.GetRequestId()] = true
				}
			}
		}
		if len(settled) != len(held) {
			t.Errorf("%d of %d reservations were settled", len(settled), len(held))
		}
	})
}

// Settlements that nodes reject, or that are too old, are reported as dropped.
func TestSettleLaterIsDropped(t *testing.T) {
	var mu sync.Mutex
	var dropped []error
	o := client.Options{OnSettlementDropped: func(key, id string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if key != "acme/alice" || id != "r1" {
			t.Errorf("Dropped(%s, %s, %v), want acme/alice, r1", key, id, err)
		}
		dropped = append(dropped, err)
	}}
	for want, behave := range map[error]func(context.Context, int) error{
		client.ErrUnknownReservation: always(codes.NotFound),
		client.ErrConflict:           always(codes.AlreadyExists),
		client.ErrUnreachable:        always(codes.Unavailable),
	} {
		dropped = nil
		runBoth(t, o, []string{"a"}, func(t scene) {
			t.nodes["a"].behave(behave)
			if err := t.c.Reservation("acme/alice", "r1").SettleLater(client.Usage{}); err != nil {
				t.Errorf("SettleLater() = %v", err)
			}
			time.Sleep(11 * time.Minute)
			if err := t.c.Flush(t.Context()); err != nil {
				t.Errorf("Flush() = %v, want nil: nothing waits", err)
			}
			if s := t.c.Status(); s.DroppedSettlements != 1 || s.PendingSettlements != 0 {
				t.Errorf("Status() = %+v, want 1 dropped", s)
			}
		})
		if len(dropped) != 2 || !errors.Is(dropped[0], want) || !errors.Is(dropped[1], want) {
			t.Errorf("dropped = %v, want %v, twice", dropped, want)
		}
	}
}

func TestSettleLaterErrors(t *testing.T) {
	runBoth(t, client.Options{MaxPendingSettlements: 2}, []string{"a"}, func(t scene) {
		t.nodes["a"].behave(always(codes.Unavailable))
		later := func(id string) error { return t.c.Reservation("acme/alice", id).SettleLater(client.Usage{}) }
		if err := errors.Join(later("r1"), later("r2")); err != nil {
			t.Errorf("SettleLater() = %v", err)
		}
		if err := later("r3"); !errors.Is(err, client.ErrQueueFull) {
			t.Errorf("SettleLater() = %v, want ErrFull", err)
		}
		var invalid *client.InvalidError
		if err := later("\xff"); !errors.As(err, &invalid) || invalid.Field != "request_id" {
			t.Errorf("SettleLater() = %v, want an InvalidError of request_id", err)
		}
		t.nodes["a"].behave(nil)
		t.reserve = denyTokens
		r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "acme/alice"})
		if err != nil {
			t.Fatalf("Reserve() = %v", err)
		}
		if err := r.SettleLater(client.Usage{}); !errors.Is(err, client.ErrUnknownReservation) {
			t.Errorf("SettleLater() of a denial = %v, want ErrUnknownReservation", err)
		}
	})
}

func TestCloseReportsLostSettlements(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		t.nodes["a"].behave(silent)
		for _, id := range []string{"r1", "r2", "r3"} {
			if err := t.c.Reservation("acme/alice", id).SettleLater(client.Usage{}); err != nil {
				t.Errorf("SettleLater() = %v", err)
			}
		}
		flushed := make(chan error, 1)
		go func() { flushed <- t.c.Flush(context.Background()) }()
		synctest.Wait()
		if err := t.c.Close(); err == nil || !strings.Contains(err.Error(), "lost (3)") {
			t.Errorf("Close() = %v, want that 3 are lost", err)
		}
		if err := <-flushed; !errors.Is(err, client.ErrClosed) {
			t.Errorf("Flush() during Close = %v, want ErrClosed", err)
		}
		if err := t.c.Reservation("acme/alice", "r4").SettleLater(client.Usage{}); !errors.Is(err, client.ErrClosed) {
			t.Errorf("SettleLater() after Close = %v, want ErrClosed", err)
		}
		if err := t.c.Flush(t.Context()); !errors.Is(err, client.ErrClosed) {
			t.Errorf("Flush() after Close = %v, want ErrClosed", err)
		}
	})
}

// A settlement follows the ring, like any other call.
func TestSettleLaterGoesToTheNewOwner(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		key := keyOf(t.ring(1, "a", "b"), "b")
		for _, n := range t.nodes {
			n.behave(always(codes.Unavailable))
		}
		if err := t.c.Reservation(key, "r1").SettleLater(client.Usage{}); err != nil {
			t.Errorf("SettleLater() = %v", err)
		}
		time.Sleep(time.Minute)
		t.nodes["a"].behave(nil)
		start := time.Now()
		t.serveRing(t.ring(2, "a"))
		if err := t.c.Flush(t.Context()); err != nil {
			t.Errorf("Flush() = %v", err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("Flush() took %v after the ring had changed, want at most 1s", took)
		}
		want := &pb.SettleRequest{Key: key, RequestId: "r1", Final: new(true)}
		if !slices.ContainsFunc(t.nodes["a"].sent(), func(m proto.Message) bool { return proto.Equal(m, want) }) {
			t.Error("the new owner was not told")
		}
	})
}
