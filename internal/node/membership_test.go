// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/rpc/peer"
)

func TestTopologyOfAView(t *testing.T) {
	at := netip.MustParseAddrPort("10.0.0.1:6471")
	member := func(name string, boot cluster.ID, state cluster.State, grpc netip.AddrPort) cluster.Member {
		return cluster.Member{Name: name, Boot: cluster.Boot{ID: boot, Started: time.Unix(0, int64(boot))}, State: state, GRPC: grpc}
	}
	got := topologyOf(&cluster.View{
		Members: []cluster.Member{
			member("a", 1, cluster.Serving, at),
			member("b", 2, cluster.Joining, at),
			member("c", 3, cluster.Leaving, at),
			member("d", 4, cluster.Serving, netip.AddrPort{}), // peers cannot connect to it
		},
		Departed: []cluster.Departure{
			{Member: member("e", 5, cluster.Serving, at), Fate: cluster.Crashed},
			{Member: member("f", 6, cluster.Leaving, at), Fate: cluster.Left},
		},
	})
	want := peer.Topology{
		Serving: []peer.Member{{Name: "a", Boot: 1, GRPC: "10.0.0.1:6471"}},
		Joining: []peer.Member{{Name: "b", Boot: 2, GRPC: "10.0.0.1:6471"}},
		Leaving: []peer.Member{{Name: "c", Boot: 3, GRPC: "10.0.0.1:6471"}},
		Roster:  5,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("topologyOf (-want +got):\n%s", diff)
	}
	if got := topologyOf(&cluster.View{}); got.Roster != 1 {
		t.Errorf("roster of an empty view = %d, want 1", got.Roster)
	}
}

func TestWaitForAppliedView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a appliedView
		reached := make(chan error, 1) // of one wait
		wait := func(number uint64, within time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			reached <- a.wait(ctx, func(v *cluster.View) bool { return v.Number >= number })
		}
		go wait(2, time.Second)
		synctest.Wait()
		a.set(&cluster.View{Number: 1})
		synctest.Wait()
		a.set(&cluster.View{Number: 2})
		if err := <-reached; err != nil {
			t.Errorf("wait(2) = %v, want nil", err)
		}
		wait(1, time.Second) // at once
		if err := <-reached; err != nil {
			t.Errorf("wait(1) = %v, want nil", err)
		}
		wait(3, time.Second)
		if err := <-reached; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait(3) = %v, want DeadlineExceeded", err)
		}
	})
}

func TestLookUpAddresses(t *testing.T) {
	for address, want := range map[string]string{
		":6472": "0.0.0.0:6472", "127.0.0.2:1": "127.0.0.2:1", "[::1]:0": "[::1]:0", "[::ffff:127.0.0.1]:7": "127.0.0.1:7", "localhost:5": "127.0.0.1:5",
	} {
		if got, err := lookupAddress(address); err != nil || got.String() != want {
			t.Errorf("lookupAddress(%s) = %s, %v, want %s", address, got, err, want)
		}
	}
	if _, err := lookupAddress("localhost"); err == nil {
		t.Error("lookupAddress without a port = nil, want an error")
	}
}
