// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestInvalidTimelinesAreRejected checks that the marks of a bucket must be those of its
// charges, and that its blocks must be in order.
func TestInvalidTimelinesAreRejected(t *testing.T) {
	const open = blockSize + 3 // reservations
	now := Time{Mono: 1, Wall: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC).UnixNano()}
	part := PartitionOf("acme")
	for _, tt := range []struct {
		name   string
		change func(*timeline)
		want   string // "" if it is restored
	}{
		{"as it is", func(*timeline) {}, ""},
		{"no charge has the marks", func(tl *timeline) {
			tl.more.blocks[1].seq += 1 << 40
			tl.more.next += 1 << 40 * blockSize
		}, "a charge to \"tokens\" has no mark"},
		{"a mark is left out", func(tl *timeline) { tl.more.next++ }, "block 1 are invalid"},
		{"a block is left out, whose marks would go to another", func(tl *timeline) { tl.more.next += blockSize }, "block 1 are invalid"},
		{"a mark comes again", func(tl *timeline) { tl.more.next-- }, "block 1 are invalid"},
		{"the first block is not full", func(tl *timeline) { tl.more.blocks[0].n-- }, "block 0 are invalid"},
		{"a block of nothing", func(tl *timeline) { tl.more.blocks[0].n = 0 }, "block 0 are invalid"},
		{"all are dead", func(tl *timeline) { tl.more.blocks[1].dead = 1<<3 - 1 }, "block 1 are invalid"},
		{"all of a full one are dead", func(tl *timeline) { tl.more.blocks[0].dead = 1<<blockSize - 1 }, "block 0 are invalid"},
		{"one is dead before it comes", func(tl *timeline) { tl.more.blocks[1].dead = 1 << 3 }, "block 1 are invalid"},
		{"a block comes twice", func(tl *timeline) { tl.more.blocks[1].seq = 0 }, "out of order"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := New(Options{})
			set, err := e.catalog.LimitSet([]Limit{{Name: "tokens", Dimension: Tokens, Algorithm: TokenBucket, Amount: 1000, Window: time.Minute}})
			if err != nil {
				t.Fatal(err)
			}
			plan := &Plan{Tier: "t", Rates: Rates{Weights: DefaultWeights}, Count: 1}
			plan.Levels[0] = Level{End: 4, Limits: set}
			var d Decision
			for i := range open {
				if err := e.Reserve(now, &Request{Key: "acme", ID: fmt.Sprint(i), Plan: plan, InputTokens: 1}, &d); err != nil || d.Outcome != Allowed {
					t.Fatalf("Reserve() = %v, %v", d.Outcome, err)
				}
			}
			p := &e.shards[part].partition
			_, rec := p.find("acme", "")
			tt.change(p.timelineOf(rec, 0)) // not used again before Restore
			err = e.Restore(now, part, e.Snapshot(now, part, nil), nil)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Restore() = %v, want %q", err, tt.want)
			}
		})
	}
}
