// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/bucketring/bucketring/internal/mockllm"
)

// charges are what a key has used, by the name of the limit.
type charges map[string]int64

// charge is that of one call, in tokens and micro-dollars of truthPolicy.
func charge(input, cached, output int64) charges {
	return charges{
		"requests": 1, "input": input, "output": output, "tokens": input + output,
		"spend": 2*(input-cached) + cached + 3*output, "concurrent": 0,
	}
}

// sums are between what a key must and what it may have been charged.
type sums struct {
	low, high charges
	loose     int // calls for which the two differ
}

// books are what was to be charged, and what was.
type books struct {
	t    *testing.T
	mock *mockllm.Server
	all  *processes

	mu    sync.Mutex
	calls map[string]noted // by label
}

// noted is a call that was made.
type noted struct {
	*modelCall
	received int64 // pieces that the caller got, or that were reported as progress
}

func (b *books) note(c *modelCall, received int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls[c.label] = noted{c, received}
}

// expected sums up by key what the model did.
func (b *books) expected() map[string]*sums {
	b.t.Helper()
	expected := map[string]*sums{}
	fates := map[fate]int{}
	for _, e := range b.mock.Ledger().Entries() {
		if e.Label == "" {
			continue
		}
		c, known := b.calls[e.Label]
		if !known || c.key != e.Caller {
			b.t.Fatalf("the model had a call that nobody made: %+v", e)
		}
		delete(b.calls, e.Label) // one that comes twice is not known
		fates[c.fate]++
		s := expected[c.key]
		if s == nil {
			s = &sums{low: charges{}, high: charges{}}
			expected[c.key] = s
		}
		low, high, err := c.bounds(e)
		if err != nil {
			b.t.Error(err)
		}
		for name := range high {
			s.low[name] += low[name]
			s.high[name] += high[name]
		}
		if !maps.Equal(low, high) {
			s.loose++
		}
	}
	for label := range b.calls {
		b.t.Errorf("the model has not heard of %s", label)
	}
	b.t.Logf("calls by fate: %v", fates)
	for f, least := range map[fate]int{finishes: 1500, fails: 70, breaks: 20, leaves: 90, runs: 30, untold: 20, drained: 40, doomed: 30, surprised: 30} {
		if fates[f] < least {
			b.t.Errorf("%d calls of fate %q, want %d at least", fates[f], f, least)
		}
	}
	return expected
}

// bounds are what a call must and may be charged, by what the model did.
func (c noted) bounds(e mockllm.Entry) (low, high charges, err error) {
	want := map[fate]mockllm.Outcome{
		finishes: mockllm.Finished, untold: mockllm.Finished, drained: mockllm.Finished, fails: mockllm.Rejected, breaks: mockllm.Aborted,
		leaves: mockllm.Disconnected, runs: mockllm.Disconnected, doomed: mockllm.Disconnected, surprised: mockllm.Disconnected,
	}[c.fate]
	if e.Outcome != want || c.after > 0 && (c.fate == breaks || c.fate == leaves || c.fate == doomed) && e.Generated != c.after {
		return nil, nil, fmt.Errorf("the model did %+v of a call that %s after %d, want %s", e, c.fate, c.after, want)
	}
	truth := charge(e.Input, e.Cached, e.Generated)
	switch c.fate {
	case fails:
		return charges{}, charges{}, nil
	case runs, surprised:
		return charge(e.Input, 0, c.received), truth, nil
	case untold:
		// Estimates err high, by an eighth of what was learned and by what stands
		// around the text.
		input := e.Input
		if c.door != tokenIDs {
			input += input/4 + 32
		}
		return truth, charge(input, 0, e.Generated+e.Generated/4+8), nil
	}
	return truth, truth, nil
}

// compare compares every key with what was to be charged.
func (b *books) compare() {
	b.t.Helper()
	exact, loose, charged, least, most := 0, 0, charges{}, charges{}, charges{}
	b.idle()
	expected := b.expected()
	for _, key := range slices.Sorted(maps.Keys(expected)) {
		want, got := expected[key], b.used(key)
		for _, name := range slices.Sorted(maps.Keys(got)) {
			charged[name] += got[name]
			least[name] += want.low[name]
			most[name] += want.high[name]
			if got[name] < want.low[name] || got[name] > want.high[name] {
				b.t.Errorf("%s was charged %d of %s, want %d to %d (%d of its calls have bounds)", key, got[name], name, want.low[name], want.high[name], want.loose)
			}
		}
		if want.loose == 0 {
			exact++
		} else {
			loose++
		}
	}
	b.t.Logf("%d keys were charged exactly what the model did, %d within bounds; all together %v of %v to %v", exact, loose, charged, least, most)
}

// used is what a key was charged, as the nodes say.
func (b *books) used(key string) charges {
	b.t.Helper()
	text := must(b.t, "curl", "-s", "--max-time", "10", "http://"+b.all.members[0].http+"/v1/limits?key="+url.QueryEscape(key))
	var a answer
	if err := json.Unmarshal([]byte(text), &a); err != nil || len(a.Limits) != 6 {
		b.t.Fatalf("limits of %s: %v in %s", key, err, text)
	}
	used := charges{}
	for _, l := range a.Limits {
		used[l.Name] = l.Limit - l.Remaining
	}
	return used
}

// idle waits until the model does nothing any more.
func (b *books) idle() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	if err := b.mock.Ledger().Idle(ctx); err != nil {
		b.t.Fatalf("the model goes on for callers that are gone: %v", err)
	}
}

// awaitSlots waits until no key holds a slot.
func (b *books) awaitSlots() {
	b.t.Helper()
	b.mu.Lock()
	keys := map[string]bool{}
	for _, c := range b.calls {
		keys[c.key] = true
	}
	b.mu.Unlock()
	for key := range keys {
		await(b.t, "the slots of "+key+" are free", func() bool { return b.used(key)["concurrent"] == 0 })
	}
}
