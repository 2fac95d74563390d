// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"context"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"testing"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/client"
)

// heap returns the live bytes of the heap.
func heap() int64 {
	runtime.GC() // twice: what pools hold survives the first
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// documented returns the bytes that the page gives for each key, id or reservation.
func documented(t *testing.T, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(name) + ` \| (\d+) B \|`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("%s has no row %q with a number of bytes", page, name)
	}
	n, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestBytesOfEach compares what keys, ids and reservations take on the heap of a node with
// the numbers of docs/operating.md. All keys are in a part of the partitions, where they are
// as dense as a million keys are in all.
func TestBytesOfEach(t *testing.T) {
	const (
		partitions = 96
		keys       = partitions * 1_000_000 / limiter.Partitions
		percent    = 15 // of a documented number that it may be off
		bytes      = 16 // that it may be off in any case
	)
	if testing.Short() {
		t.Skip("the race detector takes memory of its own")
	}
	all := keysIn(partitions, keys)
	address := startNode(t)
	load(t, address, []string{"warm-up-a", "warm-up-b", "warm-up-c"}, check)
	last := heap()
	// The first calls make keys and remember ids: the ids of the second calls are subtracted.
	var each [3]int64
	for i, call := range []func(context.Context, *client.Client, string) error{check, check, reserve} {
		load(t, address, all, call)
		now := heap()
		each[i] = (now - last) / keys
		last = now
	}
	runtime.KeepAlive(all)
	for _, tt := range []struct {
		name string
		got  int64
	}{
		{"key of its own root, four limits", each[0] - each[1]},
		{"remembered id of a check", each[1]},
		{"reservation of four limits", each[2]},
	} {
		want := documented(t, tt.name)
		t.Logf("%s: %d bytes, documented %d", tt.name, tt.got, want)
		if diff, most := tt.got-want, max(want*percent/100, bytes); diff > most || -diff > most {
			t.Errorf("%s: %d bytes on the heap, documented are %d, want within %d bytes of it", tt.name, tt.got, want, most)
		}
	}
}
