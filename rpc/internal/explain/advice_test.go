// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"
	"time"
)

// TestAdvice checks that programs are told to retry only if the call fits within a minute.
func TestAdvice(t *testing.T) {
	tokens, spend, slots := &Limit{Dimension: Tokens}, &Limit{Dimension: Spend}, &Limit{Dimension: Concurrent}
	never := Advice{After: -1}
	for _, tt := range []struct {
		reason  string
		binding *Limit
		after   time.Duration
		want    Advice
	}{
		{"limit_exceeded", tokens, 1, Advice{Retry: true, After: 1}},
		{"limit_exceeded", tokens, time.Minute, Advice{Retry: true, After: time.Minute}},
		{"limit_exceeded", tokens, time.Minute + 1, Advice{After: time.Minute + 1}},
		{"limit_exceeded", spend, 30 * time.Second, Advice{Retry: true, After: 30 * time.Second}},
		{"limit_exceeded", spend, 11 * time.Hour, Advice{After: 11 * time.Hour}},
		{"limit_exceeded", slots, time.Second, Advice{Retry: true, After: time.Second, Spread: true}},
		{"limit_exceeded", slots, time.Hour, Advice{Retry: true, After: time.Second, Spread: true}},
		{"limit_exceeded", tokens, 0, never},
		{"limit_exceeded", tokens, -1, never},
		{"exceeds_capacity", tokens, time.Second, never},
		{"exceeds_capacity", slots, time.Second, never},
		{"no_price", nil, time.Second, never},
		{"owner_unreachable", spend, -1, Advice{Retry: true, After: time.Second, Spread: true}},
		{"owner_unreachable", spend, time.Hour, Advice{Retry: true, After: time.Second, Spread: true}},
		{"owner_unreachable", slots, time.Second, Advice{Retry: true, After: time.Second, Spread: true}},
		{"table_full", nil, 5 * time.Second, Advice{Retry: true, After: 5 * time.Second, Spread: true}},
		{"table_full", nil, time.Hour, Advice{After: time.Hour, Spread: true}},
		{"ids_full", nil, 20 * time.Second, Advice{Retry: true, After: 20 * time.Second, Spread: true}},
	} {
		if got := AdviceOf(&Decision{Reason: tt.reason, Binding: tt.binding, RetryAfter: tt.after}); got != tt.want {
			t.Errorf("advice of %s, %v after %v = %+v, want %+v", tt.reason, tt.binding, tt.after, got, tt.want)
		}
	}
}

// TestShown checks that X-RateLimit-Limit is no concurrency limit if a limit on requests
// or tokens applies, and no hidden limit.
func TestShown(t *testing.T) {
	limit := func(name, dimension string, remaining int64) Limit {
		return Limit{Name: name, Dimension: dimension, Limit: 100, Capacity: 100, Remaining: remaining}
	}
	hide := func(l Limit) Limit { l.Hidden = true; return l }
	shadow := func(l Limit) Limit { l.Shadow = true; return l }
	slots, rpm, tpm, money := limit("slots", Concurrent, 0), limit("rpm", Requests, 30), limit("tpm", Tokens, 20), limit("money", Spend, 10)
	for _, tt := range []struct {
		limits []Limit // the first one binds
		want   string
	}{
		{nil, ""},
		{[]Limit{rpm, tpm}, "rpm"},
		{[]Limit{money, rpm}, "money"},
		{[]Limit{slots, rpm, tpm, money}, "tpm"},
		{[]Limit{slots, rpm, hide(tpm)}, "rpm"},
		{[]Limit{slots, shadow(rpm), money}, "slots"},
		{[]Limit{slots}, "slots"},
		{[]Limit{hide(slots)}, ""},
		{[]Limit{hide(money), slots}, ""},
		{[]Limit{hide(money), slots, rpm}, "rpm"},
		{[]Limit{hide(rpm), hide(tpm)}, ""},
	} {
		d := Decision{Limits: tt.limits}
		if len(tt.limits) > 0 {
			d.Binding = &d.Limits[0]
		}
		got := ""
		if l := d.Shown(); l != nil {
			got = l.Name
		}
		if got != tt.want {
			t.Errorf("of %v, %q is shown, want %q", tt.limits, got, tt.want)
		}
	}
}
