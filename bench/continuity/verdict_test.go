// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// good is an iteration that keeps all promises.
func good() Iteration {
	h := func() *hdrhistogram.Histogram {
		h := hdrhistogram.New(1, int64(time.Hour), 3)
		_ = h.RecordValue(int64(time.Millisecond))
		return h
	}
	return Iteration{
		Number: 1, Victims: []string{"bench-1"}, Counts: Counts{Requests: 1_000_000, Admitted: 10},
		Owned: Recovery{Calls: 1}, Heir: Recovery{Calls: 1}, OneRing: time.Second, steady: h(), during: h(),
	}
}

func judged(k Kind, spoil func(*Iteration)) *Result {
	it := good()
	spoil(&it)
	r := &Result{Name: string(k), Kind: k, Nodes: 3, Iterations: []Iteration{good(), it}}
	r.judge()
	return r
}

func TestEachPromiseCanBeBroken(t *testing.T) {
	kinds := []Kind{Rolling, Kill, Pause, Split, FullKill}
	slow := func(d time.Duration) func(*Iteration) {
		return func(it *Iteration) { _ = it.during.RecordValues(int64(d), 10) }
	}
	for _, c := range []struct {
		name   string
		spoil  func(*Iteration)
		breaks []Kind
	}{
		{"nothing", func(*Iteration) {}, nil},
		{"over-admission", func(it *Iteration) { it.Over.Microdollars = 1 }, kinds},
		{"fallback", func(it *Iteration) { it.BeyondFallback.Tokens = 1 }, kinds},
		{"charged twice", func(it *Iteration) { it.Twice.Requests = 1 }, kinds},
		{"lost", func(it *Iteration) { it.Lost.Requests = 1 }, kinds},
		{"allowed", func(it *Iteration) { it.Allowed.Requests = 1 }, nil},
		{"admitted twice", func(it *Iteration) { it.Again = 1 }, kinds},
		{"unknown", func(it *Iteration) { it.Unknown = 1 }, kinds},
		{"unknown, but allowed", func(it *Iteration) { it.Unknown, it.UnknownAllowed = 1, 1 }, nil},
		{"errors within the share", func(it *Iteration) { it.Failed = 200 }, nil},
		{"errors", func(it *Iteration) { it.Failed = 201 }, []Kind{Rolling, Kill, Pause, Split}},
		{"p99 and p99.9", slow(60 * time.Millisecond), []Kind{Rolling}},
		{"owned, 2 s", func(it *Iteration) { it.Owned.After = 2 * time.Second }, []Kind{Kill}},
		{"owned, 5 s", func(it *Iteration) { it.Owned.After = 5 * time.Second }, []Kind{Kill, Pause, Split}},
		{"owned, never", func(it *Iteration) { it.Owned.Never = true }, []Kind{Kill, Pause, Split}},
		{"heir, 2 s", func(it *Iteration) { it.Heir.After = 2 * time.Second }, []Kind{Kill, Pause, Split}},
		{"owner and heir were cut off", func(it *Iteration) { it.Cut = Recovery{Never: true, Calls: 9} }, nil},
		{"one ring", func(it *Iteration) { it.OneRing = 21 * time.Second }, []Kind{Split}},
		{"slots twice", func(it *Iteration) { it.Twice.Slots = 1 }, kinds},
		{"slots held", func(it *Iteration) { it.Waiting = &Waiting{SlotsHeld: 1} }, kinds},
		{"a late answer", func(it *Iteration) { it.Waiting = &Waiting{Late: 1} }, kinds},
		{"waits", func(it *Iteration) {
			slow(time.Minute)(it)
			it.Waiting = &Waiting{Admitted: 5, Denied: 5, Longest: time.Minute}
		}, nil},
		{"problem", func(it *Iteration) { it.Problem = "not applied" }, kinds},
	} {
		for _, k := range kinds {
			want := true
			for _, b := range c.breaks {
				want = want && b != k
			}
			if r := judged(k, c.spoil); r.OK != want {
				t.Errorf("%s, %s: ok = %t, want %t: %+v", k, c.name, r.OK, want, r.Checks)
			}
		}
	}
}

func TestTextAndJSON(t *testing.T) {
	kept, broken := judged(Kill, func(*Iteration) {}), judged(Split, func(it *Iteration) { it.Lost.Tokens = 1_234 })
	d := &Document{FormatVersion: 1, Campaigns: []Result{*kept, *broken}}
	var text, js bytes.Buffer
	if err := d.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kill -9, 2 times, 2,000,000 requests: all promises kept", "split, 2 times, 2,000,000 requests: PROMISES BROKEN", "1,234 tokens"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, text.String())
		}
	}
	if n := strings.Count(text.String(), " BROKEN"); n != 2 { // the headline and one line
		t.Errorf("BROKEN is there %d times, want 2:\n%s", n, text.String())
	}
	if err := d.WriteJSON(&js); err != nil {
		t.Fatal(err)
	}
	var back Document
	if err := json.Unmarshal(js.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Campaigns) != 2 || back.Campaigns[1].Lost.Tokens != 1_234 || back.Campaigns[1].OK {
		t.Errorf("read back %+v", back.Campaigns)
	}
}

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		n, of int64
		want  string
	}{{0, 0, "0 %"}, {100, 1e6, "0.01 %"}, {1, 4, "25 %"}, {491, 17_028, "2.883 %"}, {1, 1, "100 %"}} {
		if got := percent(c.n, c.of); got != c.want {
			t.Errorf("percent(%d, %d) = %q, want %q", c.n, c.of, got, c.want)
		}
	}
}
