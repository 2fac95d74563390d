// SPDX-License-Identifier: Apache-2.0

package share

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
)

func TestAddress(t *testing.T) {
	for _, test := range []struct {
		addr net.Addr
		want string
	}{
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 5}, "10.0.0.1"},
		{&net.TCPAddr{IP: net.ParseIP("::ffff:10.0.0.1"), Port: 6}, "10.0.0.1"},
		{&net.UDPAddr{IP: net.ParseIP("2001:db8:1:2:3:4:5:6")}, "2001:db8:1:2::"},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, "fe80::"},
		{&net.UnixAddr{Name: "/tmp/s"}, "invalid IP"},
		{nil, "invalid IP"},
	} {
		if got := Address(test.addr).String(); got != test.want {
			t.Errorf("Address(%v) = %s, want %s", test.addr, got, test.want)
		}
	}
}

func TestBudget(t *testing.T) {
	one, two, member := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	b := New(Limits{Total: 10, PerAddress: 4, Reserved: 3, Member: func(a netip.Addr) bool { return a == member }})
	take := func(a netip.Addr, n int64, want Refusal) {
		t.Helper()
		if got := b.Take(a, n); got != want {
			t.Errorf("Take(%s, %d) = %q, want %q", a, n, got, want)
		}
	}
	take(one, 4, None)
	take(one, 1, AddressFull)
	take(two, 3, None)
	take(two, 1, Full) // 3 are the members'
	if a, n := b.Largest(); a != one || n != 4 {
		t.Errorf("Largest() = %s, %d, want %s, 4", a, n, one)
	}
	take(member, 3, None)
	take(member, 1, Full)
	b.Give(one, 4)
	take(member, 3, None) // more than a share
	if got := b.Used(); got != 9 {
		t.Errorf("Used() = %d, want 9", got)
	}
}

// TestBudgetIsTheSum takes and gives at random.
func TestBudgetIsTheSum(t *testing.T) {
	const total, per = 50, 20
	b := New(Limits{Total: total, PerAddress: per})
	random := rand.New(rand.NewPCG(1, 2))
	has := map[netip.Addr][]int64{}
	sum := func(list []int64) (n int64) {
		for _, x := range list {
			n += x
		}
		return n
	}
	for range 10_000 {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(5))})
		var used int64
		for _, list := range has {
			used += sum(list)
		}
		if got := b.Used(); got != used {
			t.Fatalf("Used() = %d, want %d", got, used)
		}
		if list := has[a]; len(list) > 0 && random.IntN(2) == 0 {
			b.Give(a, list[0])
			has[a] = list[1:]
			continue
		}
		n := 1 + random.Int64N(8)
		fits := sum(has[a])+n <= per && used+n <= total
		if got := b.Take(a, n); (got == None) != fits {
			t.Fatalf("Take(%s, %d) = %q with %d of %d taken", a, n, got, sum(has[a]), used)
		} else if fits {
			has[a] = append(has[a], n)
		}
	}
}
