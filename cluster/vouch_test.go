// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
)

// TestVouch checks which boots get into views, with nodes that gossip: only those that are
// vouched for, once they are, and not at another address.
func TestVouch(t *testing.T) {
	var mu sync.Mutex
	honest := map[ID]bool{1: true, 2: true}
	run := func(name string, boot ID, seeds ...string) *Cluster {
		t.Helper()
		c, err := New(Options{
			Name: name, Boot: Boot{boot, time.Now().Add(time.Duration(boot) * time.Hour)}, Bind: netip.MustParseAddrPort("127.0.0.1:0"), GRPC: uint16(1000 + boot), Seeds: seeds,
			Vouch: func(_ context.Context, m Member) error {
				mu.Lock()
				defer mu.Unlock()
				if !honest[m.Boot.ID] {
					return errors.New("no certificate")
				}
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		waittest.Until(t, name+" is in its own view", func() bool {
			m, ok := c.View().Member(name)
			return ok && m.Boot.ID == boot
		})
		return c
	}
	a := run("a", 1)
	at := func() string { m, _ := a.View().Member("a"); return m.Gossip.String() }()
	run("b", 2, at)
	waittest.Until(t, "b is vouched for", func() bool { return len(a.View().Members) == 2 })
	thief := run("b", 9, at) // a newer boot of b
	waittest.Until(t, "the thief is seen", func() bool { return len(a.Status().Unvouched) == 1 })
	u := a.Status().Unvouched[0]
	if m, _ := a.View().Member("b"); m.Boot.ID != 2 || len(a.View().Fenced) > 0 || u.Name != "b" || u.Boot != 9 || u.Problem != "no certificate" {
		t.Errorf("view %+v, unvouched %+v, want the first b and the thief", a.View(), u)
	}
	mu.Lock()
	honest[9] = true
	mu.Unlock()
	waittest.Until(t, "the new boot is taken when it is vouched for", func() bool {
		m, _ := a.View().Member("b")
		return m.Boot.ID == 9 && len(a.Status().Unvouched) == 0
	})
	_ = thief
}

// TestVouchedAddress: a boot that claims another address is gone until it is vouched for
// there; one that goes down is forgotten; strangers are bounded.
func TestVouchedAddress(t *testing.T) {
	c, err := New(Options{
		Name: "a", Boot: Boot{1, time.Now()}, Bind: netip.MustParseAddrPort("127.0.0.1:0"),
		Vouch: func(ctx context.Context, m Member) error {
			if m.GRPC.Port() == 1 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	v := newVouchers(c)
	ctx, cancel := context.WithCancel(t.Context())
	defer v.stop()
	defer cancel()
	b := Member{Name: "b", Boot: Boot{2, time.Now()}, GRPC: netip.MustParseAddrPort("127.0.0.1:1")}
	if got := v.admit(ctx, []event{{eventUp, b}}); len(got) != 0 {
		t.Errorf("at first: %v, want nothing", got)
	}
	if got := v.finish(<-v.done); len(got) != 1 || got[0].kind != eventUp {
		t.Errorf("vouched for: %v, want that it is up", got)
	}
	if got := v.admit(ctx, []event{{eventUp, b}}); len(got) != 1 {
		t.Errorf("again: %v, want that it is up", got)
	}
	moved := b
	moved.GRPC = netip.MustParseAddrPort("127.0.0.1:2")
	if got := v.admit(ctx, []event{{eventUp, moved}}); len(got) != 1 || got[0].kind != eventDown {
		t.Errorf("at another address: %v, want that it is down", got)
	}
	if got := v.admit(ctx, []event{{eventDown, moved}}); len(got) != 0 || len(v.waiting) != 0 || len(v.known) != 0 {
		t.Errorf("down: %v, waiting %d, known %d, want nothing", got, len(v.waiting), len(v.known))
	}
	for i := range 3 * maxUnvouched {
		m := moved
		m.Boot.ID = ID(100 + i)
		v.admit(ctx, []event{{eventUp, m}})
	}
	if len(v.waiting) != maxUnvouched {
		t.Errorf("%d boots wait, want at most %d", len(v.waiting), maxUnvouched)
	}
	for _, w := range v.waiting {
		w.attempts = vouchTroubled
	}
	v.admit(ctx, []event{{eventUp, b}}) // of a member, among strangers
	var got []event
	for over := time.After(waittest.Limit); len(got) == 0; { // results of boots that were forgotten may come first
		select {
		case r := <-v.done:
			got = v.finish(r)
		case <-over:
			t.Fatal("the member is not vouched for")
		}
	}
	if len(got) != 1 || got[0].member.Boot.ID != b.Boot.ID || len(v.waiting) != maxUnvouched-1 {
		t.Errorf("among strangers: %v, %d wait, want that the member is up", got, len(v.waiting))
	}
}
