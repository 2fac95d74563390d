// SPDX-License-Identifier: Apache-2.0

package simnet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

var (
	a = netip.MustParseAddrPort("10.0.0.1:1")
	b = netip.MustParseAddrPort("10.0.0.2:1")
)

const delay = 10 * time.Millisecond

// simulate runs f with two hosts.
func simulate(t *testing.T, f func(t *testing.T, n *Network, from, to *Transport)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New(1, Link{Delay: delay})
		f(t, n, n.Transport(a), n.Transport(b))
	})
}

// received returns how many packets arrive within d.
func received(t *Transport, d time.Duration) (count int) {
	end := time.After(d)
	for {
		select {
		case <-t.PacketCh():
			count++
		case <-end:
			return count
		}
	}
}

func send(t *testing.T, from *Transport, to netip.AddrPort, count int) {
	t.Helper()
	for range count {
		if _, err := from.WriteTo([]byte("x"), to.String()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPackets(t *testing.T) {
	simulate(t, func(t *testing.T, n *Network, from, to *Transport) {
		send(t, from, b, 1)
		start := time.Now()
		if p := <-to.PacketCh(); time.Since(start) != delay || p.From.String() != a.String() || string(p.Buf) != "x" {
			t.Errorf("packet after %s from %s, want %s from %s", time.Since(start), p.From, delay, a)
		}
		n.Cut(a, b)
		send(t, from, b, 1)
		send(t, to, a, 1)
		if sent, returned := received(to, time.Second), received(from, time.Second); sent != 0 || returned != 1 {
			t.Errorf("with a cut one way: %d received, %d returned, want 0 and 1", sent, returned)
		}
		n.Heal()
		n.SetLink(a, b, Link{LossPercent: 30})
		send(t, from, b, 1000)
		if got := received(to, time.Second); got < 600 || got > 800 {
			t.Errorf("%d of 1000 packets arrive, want about 700", got)
		}
	})
}

func TestFrozenHostCatchesUp(t *testing.T) {
	simulate(t, func(t *testing.T, n *Network, from, to *Transport) {
		n.Freeze(b, time.Second)
		send(t, from, b, 3)
		send(t, to, a, 3)
		if sent, returned := received(to, time.Second-1), received(from, 0); sent != 0 || returned != 0 {
			t.Errorf("while frozen: %d received, %d returned, want none", sent, returned)
		}
		if sent, returned := received(to, delay+1), received(from, delay+1); sent != 3 || returned != 3 {
			t.Errorf("after it: %d received, %d returned, want all 3", sent, returned)
		}
	})
}

func TestStreams(t *testing.T) {
	simulate(t, func(t *testing.T, n *Network, from, to *Transport) {
		near, far := dial(t, from, to)
		start := time.Now()
		if _, err := near.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_ = near.Close()
		got, err := io.ReadAll(far)
		if string(got) != "hello" || err != nil || time.Since(start) != delay {
			t.Errorf("ReadAll = %q, %v after %s, want hello after %s", got, err, time.Since(start), delay)
		}
		if _, err := near.Write(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after Close = %v, want net.ErrClosed", err)
		}

		near, far = dial(t, from, to)
		n.Cut(a, b)
		_, _ = near.Write([]byte("lost"))
		_ = far.SetDeadline(time.Now().Add(time.Second))
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read behind a cut = %v, want a timeout", err)
		}
		start = time.Now()
		_, err = from.DialTimeout(b.String(), time.Second)
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(start) != time.Second {
			t.Errorf("dial behind a cut = %v after %s, want a timeout after 1s", err, time.Since(start))
		}
		n.Heal()
		_ = to.Shutdown()
		if _, err := from.DialTimeout(b.String(), time.Second); !errors.Is(err, errRefused) {
			t.Errorf("dial to a host that is down = %v, want it refused", err)
		}
	})
}

func dial(t *testing.T, from, to *Transport) (near, far net.Conn) {
	t.Helper()
	near, err := from.DialTimeout(to.addr.String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return near, <-to.StreamCh()
}
