// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/waittest"
)

// charges is the usage of a key by name of the limit.
type charges map[string]int64

// charge returns the charges of one call under truthPolicy.
func charge(input, cached, written, output int64) charges {
	return charges{
		"requests": 1, "input": input, "output": output, "tokens": input + output,
		"spend": 2*(input-cached-written) + cached + 5*written + 3*output, "concurrent": 0,
	}
}

// bounds are the least and the most that a key may have been charged.
type bounds struct {
	low, high charges
	inexact   int // calls for which the two differ
}

// ledgerCheck compares the ledger of the mock model with the usage of the keys.
type ledgerCheck struct {
	t    *testing.T
	mock *mockllm.Server
	all  *processes

	mu    sync.Mutex
	calls map[string]madeCall // by label
}

// madeCall is a completed call.
type madeCall struct {
	*modelCall
	received int64 // chunks that the caller received, or that were reported as progress
}

func (b *ledgerCheck) record(c *modelCall, received int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls[c.label] = madeCall{c, received}
}

// expected returns the expected charges of each key by the ledger of the model.
func (b *ledgerCheck) expected() map[string]*bounds {
	b.t.Helper()
	expected := map[string]*bounds{}
	fates, spoken := map[fate]int{}, map[mockllm.Dialect]int{}
	for _, e := range b.mock.Ledger().Entries() {
		if e.Label == "" {
			continue
		}
		c, known := b.calls[e.Label]
		if !known || c.key != e.Caller {
			b.t.Fatalf("the model has an unknown call: %+v", e)
		}
		delete(b.calls, e.Label) // so that a second entry is unknown
		fates[c.fate]++
		spoken[c.dialect]++
		s := expected[c.key]
		if s == nil {
			s = &bounds{low: charges{}, high: charges{}}
			expected[c.key] = s
		}
		low, high, err := c.chargeBounds(e)
		if err != nil {
			b.t.Error(err)
		}
		for name := range high {
			s.low[name] += low[name]
			s.high[name] += high[name]
		}
		if !maps.Equal(low, high) {
			s.inexact++
		}
	}
	for label := range b.calls {
		b.t.Errorf("the model has no call %s", label)
	}
	b.t.Logf("calls by fate: %v, by dialect: %v", fates, spoken)
	for _, d := range dialects {
		if spoken[d] < 500 {
			b.t.Errorf("%d calls in dialect %q, want 500 at least", spoken[d], d)
		}
	}
	for f, least := range map[fate]int{finishes: 1500, fails: 70, breaks: 20, leaves: 90, runs: 30, noUsage: 20, drained: 40, killedStalled: 30, killedRunning: 30} {
		if fates[f] < least {
			b.t.Errorf("%d calls of fate %q, want %d at least", fates[f], f, least)
		}
	}
	return expected
}

// chargeBounds returns the least and the most that a call may be charged.
func (c madeCall) chargeBounds(e mockllm.Entry) (low, high charges, err error) {
	want := map[fate]mockllm.Outcome{
		finishes: mockllm.Finished, noUsage: mockllm.Finished, drained: mockllm.Finished, fails: mockllm.Rejected, breaks: mockllm.Aborted,
		leaves: mockllm.Disconnected, runs: mockllm.Disconnected, killedStalled: mockllm.Disconnected, killedRunning: mockllm.Disconnected,
	}[c.fate]
	if e.Outcome != want || c.after > 0 && (c.fate == breaks || c.fate == leaves || c.fate == killedStalled) && e.Generated != c.after {
		return nil, nil, fmt.Errorf("the model did %+v of a call that %s after %d, want %s", e, c.fate, c.after, want)
	}
	truth := charge(e.Input, e.Cached, e.CacheWrite, e.Generated)
	switch c.fate {
	case fails:
		if c.status < http.StatusInternalServerError { // rejected: only the request is charged
			return charge(0, 0, 0, 0), charge(0, 0, 0, 0), nil
		}
		return charges{}, charges{}, nil
	case runs, killedRunning:
		return charge(e.Input, 0, 0, c.received), truth, nil
	case noUsage:
		// Estimates are up to a fourth too high, plus the overhead of the format.
		input := e.Input
		if c.endpoint != tokenIDs {
			input += input/4 + 32
		}
		return truth, charge(input, 0, 0, e.Generated+e.Generated/4+8), nil
	}
	return truth, truth, nil
}

// compare checks the usage of every key.
func (b *ledgerCheck) compare() {
	b.t.Helper()
	exact, inexact, charged, least, most := 0, 0, charges{}, charges{}, charges{}
	b.idle()
	expected := b.expected()
	for _, key := range slices.Sorted(maps.Keys(expected)) {
		want, got := expected[key], b.used(key)
		for _, name := range slices.Sorted(maps.Keys(got)) {
			charged[name] += got[name]
			least[name] += want.low[name]
			most[name] += want.high[name]
			if got[name] < want.low[name] || got[name] > want.high[name] {
				b.t.Errorf("%s was charged %d of %s, want %d to %d (%d of its calls have bounds)", key, got[name], name, want.low[name], want.high[name], want.inexact)
			}
		}
		if want.inexact == 0 {
			exact++
		} else {
			inexact++
		}
	}
	b.t.Logf("%d keys were charged exactly what the model did, %d within bounds; all together %v of %v to %v", exact, inexact, charged, least, most)
}

// used is what a key was charged, as the nodes say.
func (b *ledgerCheck) used(key string) charges {
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
func (b *ledgerCheck) idle() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), waittest.Limit)
	defer cancel()
	if err := b.mock.Ledger().Idle(ctx); err != nil {
		b.t.Fatalf("the model goes on for callers that are gone: %v", err)
	}
}

// awaitSlots waits until no key holds a slot.
func (b *ledgerCheck) awaitSlots() {
	b.t.Helper()
	b.mu.Lock()
	keys := map[string]bool{}
	for _, c := range b.calls {
		keys[c.key] = true
	}
	b.mu.Unlock()
	for key := range keys {
		waittest.Until(b.t, "the slots of "+key+" are free", func() bool { return b.used(key)["concurrent"] == 0 })
	}
}
