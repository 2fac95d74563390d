// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"net/netip"
	"runtime"
	"testing"
)

// Failures of an address are refused at once when they are too many, and valid credentials
// from there pass all the same.
func TestTooManyFailures(t *testing.T) {
	w := newWorld(t, callersText())
	ctx, valid := from(somewhere, nil), signed(t, jwtSecret, jwtClaims(nil))
	for range maxFailures {
		w.want("a failure", w.call(ctx, check, "wrong"), "Unauthenticated")
	}
	w.want("one more", w.call(ctx, check, "wrong"), "ResourceExhausted: this address has sent too many calls without valid credentials")
	w.want("a valid token", w.call(ctx, check, "gate-1"), "gateway")
	w.want("a valid certificate", w.call(from(somewhere, certificate("envoy.example")), check, ""), "envoy")
	w.want("another address", w.call(from("192.0.2.2:1", nil), check, "wrong"), "Unauthenticated")
	w.want("a valid JWT", w.call(ctx, check, valid), "batch")
	w.want("a JWT that was seen", w.call(ctx, check, valid), "batch")
	w.want("a JWT at the same instant is not verified", w.call(ctx, check, signed(t, jwtSecret, jwtClaims(map[string]any{"n": 1}))), "ResourceExhausted")
	w.now = w.now.Add(suspectEvery)
	w.want("but soon after", w.call(ctx, check, signed(t, jwtSecret, jwtClaims(map[string]any{"n": 1}))), "batch")
	w.now = w.now.Add(window)
	w.want("a minute later", w.call(ctx, check, "wrong"), "Unauthenticated")
	for reason, want := range map[Reason]float64{UnknownToken: maxFailures + 2, TooMany: 2, Missing: 0} {
		if got := w.metric("bucketring_auth_failures_total", reason.String()); got != want {
			t.Errorf("failures %s = %v, want %v", reason, got, want)
		}
	}
}

// A flood from a hundred thousand addresses needs no more memory than one from a few thousand.
func TestFloodIsBounded(t *testing.T) {
	w := newWorld(t, callersText())
	addresses := func() (n int) {
		for i := range w.failures.shards {
			n += len(w.failures.shards[i].addresses)
		}
		return n
	}
	var before, after runtime.MemStats
	flood := func(first, n int) {
		for i := first; i < first+n; i++ {
			w.failures.fail(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		}
	}
	flood(0, 20_000)
	runtime.GC()
	runtime.ReadMemStats(&before)
	flood(20_000, 100_000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := addresses(); n > shards*maxPerShard {
		t.Errorf("%d addresses are kept, want %d at most", n, shards*maxPerShard)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("the heap has grown by %d bytes in the flood, want less than 1 MiB", grown)
	}
}
