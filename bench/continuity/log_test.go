// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
	"github.com/bucketring/bucketring/rpc/client"
)

func at(ms int) time.Duration { return time.Duration(ms) * time.Millisecond }

func TestRecovery(t *testing.T) {
	answer := func(ms int, route string, r result) sample {
		return sample{op: bench.OpCheck, sent: at(ms), done: at(ms + 1), route: route, result: r}
	}
	for _, c := range []struct {
		name    string
		samples []sample
		want    Recovery
	}{
		{"no calls", nil, Recovery{}},
		{"always exact", []sample{answer(100, "local", admitted), answer(150, "forward", denied)}, Recovery{Calls: 2}},
		{"fallback, then exact", []sample{answer(100, "fallback", admitted), answer(300, "fallback", denied), answer(400, "local", admitted)}, Recovery{After: at(201), Calls: 3, Inexact: 2}},
		{"a failure counts", []sample{answer(120, "", failed), answer(130, "local", denied)}, Recovery{After: at(21), Calls: 2, Inexact: 1}},
		{"a refusal does not", []sample{answer(120, "", refused)}, Recovery{}},
		{"never exact", []sample{answer(110, "local", admitted), answer(500, "fallback", denied)}, Recovery{After: at(401), Never: true, Calls: 2, Inexact: 1}},
		{"outside of the window", []sample{answer(99, "fallback", admitted), answer(1_000, "fallback", admitted)}, Recovery{}},
	} {
		l := &runLog{samples: c.samples}
		if got := l.recovery(at(100), at(1_000), func(*sample) bool { return true }); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestUnknownReservationsAreCounted(t *testing.T) {
	l := &runLog{load: newLoad("c0", classes, 1, time.Minute)}
	call := &bench.Call{Key: l.load.keys[0].name, ID: "x"}
	for _, err := range []error{
		nil,
		errors.New("connection refused"),
		fmt.Errorf("settle: %w", client.ErrUnknownReservation),
		fmt.Errorf("settle: %w", status.Error(codes.NotFound, "unknown")),
	} {
		l.add(&bench.Event{Op: bench.OpSettle, Call: call, Err: err})
	}
	l.add(&bench.Event{Op: bench.OpReserve, Call: call, Err: fmt.Errorf("reserve: %w", bench.ErrOverloaded)})
	if l.unknown != 2 {
		t.Errorf("%d unknown reservations, want 2", l.unknown)
	}
	var it Iteration
	it.count(l, &bench.Result{})
	if want := (Counts{Requests: 5, Failed: 3, Refused: 1}); it.Counts != want {
		t.Errorf("%+v, want %+v", it.Counts, want)
	}
}

func TestToleranceIsWhatWasChargedBeforeTheFault(t *testing.T) {
	const large, little = "c0-budget-1", "c0-" + small + "-1"
	charge := func(key string, ms int) sample {
		return sample{op: bench.OpCheck, sent: at(ms), done: at(ms + 1), call: &bench.Call{Key: key, InputTokens: 10, OutputTokens: 5}}
	}
	log := &runLog{samples: []sample{
		charge(large, 4_500), charge(large, 4_990),
		charge(little, 4_900), charge(little, 4_980), charge(little, 5_020), charge(little, 5_200),
		{op: bench.OpCheck, sent: at(4_990), done: at(4_991), result: denied, call: &bench.Call{Key: little}},
	}}
	cost := func(l *audit.Limit, u audit.Units) int64 {
		if l.Dimension == audit.Requests {
			return u.Requests
		}
		return u.Input + u.Output
	}
	of := func(k Kind, key, dimension string) int64 {
		tol := tolerance{promises[k], log, at(5_000), at(5_000), cost}
		return tol.of(&audit.LimitRef{Scope: key, Dimension: dimension})
	}
	for _, c := range []struct {
		kind           Kind
		key, dimension string
		want           int64
	}{
		{Rolling, large, audit.Requests, 0},
		{Rolling, little, audit.Requests, 0},
		{Kill, large, audit.Requests, 0},
		{Kill, little, audit.Requests, 2},
		{Kill, little, audit.Tokens, 30},
		{FullKill, large, audit.Requests, 2},
		{FullKill, little, audit.Requests, 4},
	} {
		if got := of(c.kind, c.key, c.dimension); got != c.want {
			t.Errorf("%s: %d %s of %s may be lost, want %d", c.kind, got, c.dimension, c.key, c.want)
		}
	}
}

// A document names the limits of which a promise is broken, without what the bound allows.
func TestBrokenLimitsAreNamed(t *testing.T) {
	const large, little = "c0-budget-1", "c0-" + small + "-1"
	log := &runLog{samples: []sample{{op: bench.OpCheck, sent: at(4_980), done: at(4_981), call: &bench.Call{Key: little}}}}
	tol := &tolerance{promises[Kill], log, at(5_000), at(5_000), func(_ *audit.Limit, u audit.Units) int64 { return u.Requests }}
	ref := func(key string) audit.LimitRef { return audit.LimitRef{Scope: key, Dimension: audit.Requests} }
	got := findings(&audit.Report{
		Over:    []audit.OverAdmission{{LimitRef: ref(little), Amount: 1}, {LimitRef: ref(large), Amount: 2}},
		Charges: []audit.ChargeMismatch{{LimitRef: ref(little), Missing: 4}, {LimitRef: ref(large), Excess: 5}},
	}, tol)
	want := []Broken{{LimitRef: ref(large), Over: 2}, {LimitRef: ref(little), Lost: 3}, {LimitRef: ref(large), Twice: 5}}
	if diff := cmp.Diff(want, got.Broken); diff != "" {
		t.Errorf("broken limits (-want +got):\n%s", diff)
	}
	sum := &Findings{}
	for range maxBroken {
		sum.plus(got)
	}
	if len(sum.Broken) != maxBroken {
		t.Errorf("%d limits are named, want %d", len(sum.Broken), maxBroken)
	}
}
