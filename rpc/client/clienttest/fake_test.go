// SPDX-License-Identifier: Apache-2.0

package clienttest_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/clienttest"
)

// No goroutine may outlive a closed fake.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const rules = `
tiers: { free: { requests: 10/min, tokens: 10_000/min, concurrent: 2 } }
default_tier: free
`

var alice = client.Query{Key: "acme/alice"}

func wantUsed(t *testing.T, f *clienttest.Fake, limit string, want int64) {
	t.Helper()
	if got, err := f.Used(alice, limit); got != want || err != nil {
		t.Errorf("Used(%s) = %d, %v, want %d", limit, got, err, want)
	}
}

func check(t *testing.T, f *clienttest.Fake, tokens int64) client.Decision {
	t.Helper()
	d, err := f.Client().Check(t.Context(), client.Call{Key: "acme/alice", InputTokens: tokens})
	if err != nil {
		t.Fatalf("Check(%d) = %v", tokens, err)
	}
	return d
}

func reserve(t *testing.T, f *clienttest.Fake) *client.Reservation {
	t.Helper()
	r, err := f.Client().Reserve(t.Context(), client.Estimate{Key: "acme/alice", InputTokens: 900, MaxOutputTokens: new(int64(800))})
	if err != nil {
		t.Fatalf("Reserve() = %v", err)
	}
	return r
}

func TestTheClockIsVirtual(t *testing.T) {
	start := time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC)
	f := clienttest.New(t, clienttest.Options{Policy: rules, Start: start})
	if d := check(t, f, 10_000); !d.Allowed() {
		t.Errorf("Check(10000) = %s, want allowed", d.Outcome)
	}
	if d := check(t, f, 1000); !d.Denied() || d.RetryAfter != 6*time.Second || d.Binding.Name != "tokens" {
		t.Errorf("Check(1000) = %s of %s, retry in %v, want denied, tokens, 6s", d.Outcome, d.Binding.Name, d.RetryAfter)
	}
	f.Advance(6 * time.Second)
	if d := check(t, f, 1000); !d.Allowed() {
		t.Errorf("Check(1000) after 6s = %s, want allowed", d.Outcome)
	}
	if got, want := f.Now(), start.Add(6*time.Second); !got.Equal(want) {
		t.Errorf("Now() = %v, want %v", got, want)
	}
}

func TestLeasesExpire(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: rules})
	r := reserve(t, f)
	wantUsed(t, f, "concurrent", 1)
	wantUsed(t, f, "tokens", 1700)
	f.Advance(31 * time.Second)
	wantUsed(t, f, "concurrent", 0)
	if held := f.Held(); !slices.Equal(held, []string{r.RequestID}) {
		t.Errorf("Held() = %q, want %q, which nobody ended", held, r.RequestID)
	}
}

func TestHeld(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: rules})
	a, b := reserve(t, f), reserve(t, f)
	if denied := reserve(t, f); !denied.Denied() || denied.Binding.Name != "concurrent" {
		t.Errorf("Reserve() = %s of %s, want denied, concurrent", denied.Outcome, denied.Binding.Name)
	}
	if got, want := f.Held(), slices.Sorted(slices.Values([]string{a.RequestID, b.RequestID})); !slices.Equal(got, want) {
		t.Errorf("Held() = %q, want %q", got, want)
	}
	if _, err := a.Progress(t.Context(), client.Usage{}); err != nil {
		t.Errorf("Progress() = %v", err)
	}
	if _, err := a.Settle(t.Context(), client.Usage{}); err != nil {
		t.Errorf("Settle() = %v", err)
	}
	if got := f.Held(); !slices.Equal(got, []string{b.RequestID}) {
		t.Errorf("Held() after a settle = %q, want %q", got, b.RequestID)
	}
	if err := b.Cancel(t.Context()); err != nil {
		t.Errorf("Cancel() = %v", err)
	}
	if got := f.Held(); len(got) > 0 {
		t.Errorf("Held() after a cancel = %q, want none", got)
	}
}

func TestDenyNext(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: rules})
	f.DenyNext(client.OwnerUnreachable, 0)
	f.DenyNext(client.LimitExceeded, 3*time.Second)
	if d := check(t, f, 1); !d.Denied() || d.Reason != client.OwnerUnreachable || d.RetryAfter != 0 {
		t.Errorf("Check() = %s, %s, retry in %v, want denied, owner_unreachable, 0s", d.Outcome, d.Reason, d.RetryAfter)
	}
	if r := reserve(t, f); !r.Denied() || r.Reason != client.LimitExceeded || r.RetryAfter != 3*time.Second || r.RequestID == "" {
		t.Errorf("Reserve() = %+v, want denied, limit_exceeded, 3s, with an id", r.Decision)
	}
	wantUsed(t, f, "tokens", 0)
	if d := check(t, f, 1); !d.Allowed() {
		t.Errorf("Check() after two denials = %s, want allowed", d.Outcome)
	}
}

func TestFailNext(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: rules})
	calls := map[clienttest.Method]func(r *client.Reservation) error{
		clienttest.Check: func(*client.Reservation) error {
			_, err := f.Client().Check(t.Context(), client.Call{Key: "acme/alice"})
			return err
		},
		clienttest.Reserve: func(*client.Reservation) error {
			_, err := f.Client().Reserve(t.Context(), client.Estimate{Key: "acme/alice"})
			return err
		},
		clienttest.Settle:   func(r *client.Reservation) error { _, err := r.Settle(t.Context(), client.Usage{}); return err },
		clienttest.Progress: func(r *client.Reservation) error { _, err := r.Progress(t.Context(), client.Usage{}); return err },
		clienttest.Cancel:   func(r *client.Reservation) error { return r.Cancel(t.Context()) },
		clienttest.Peek:     func(*client.Reservation) error { _, err := f.Client().Peek(t.Context(), alice); return err },
	}
	for m, call := range calls {
		for _, want := range []error{client.ErrUnreachable, client.ErrOverloaded, client.ErrUnknownReservation, client.ErrConflict} {
			// Of a reservation that is made elsewhere, every cancel is sent. A failure has no effect.
			r := f.Client().Reservation("acme/alice", reserve(t, f).RequestID)
			f.FailNext(m, want)
			if err := call(r); !errors.Is(err, want) {
				t.Errorf("%s = %v, want %v", m, err, want)
			}
			if err := f.Client().Reservation("acme/alice", r.RequestID).Cancel(t.Context()); err != nil {
				t.Errorf("Cancel() after a failed %s = %v, want nil", m, err)
			}
		}
	}
	wantUsed(t, f, "tokens", 0)
	wantUsed(t, f, "requests", 0)
}

func TestFailNextWithDetails(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: rules})
	f.FailNext(clienttest.Check, &client.OverloadedError{RetryAfter: 40 * time.Millisecond})
	f.FailNext(clienttest.Check, &client.InvalidError{Field: "tier", Message: "tier: no tier gold"})
	f.FailNext(clienttest.Check, errors.New("out of order"))
	call := func() error {
		_, err := f.Client().Check(t.Context(), client.Call{Key: "acme/alice"})
		return err
	}
	if busy, ok := errors.AsType[*client.OverloadedError](call()); !ok || busy.RetryAfter != 40*time.Millisecond {
		t.Errorf("Check() = %v, want an OverloadedError of 40ms", busy)
	}
	if invalid, ok := errors.AsType[*client.InvalidError](call()); !ok || invalid.Field != "tier" || !strings.Contains(invalid.Message, "no tier gold") {
		t.Errorf("Check() = %v, want an InvalidError of tier", invalid)
	}
	if err := call(); err == nil || !strings.Contains(err.Error(), "out of order") {
		t.Errorf("Check() = %v, want out of order", err)
	}
	if err := call(); err != nil {
		t.Errorf("Check() after the failures = %v, want nil", err)
	}
}

func TestSetUnreachable(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: rules})
	r := reserve(t, f)
	f.SetUnreachable(true)
	if _, err := r.Settle(t.Context(), client.Usage{}); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("Settle() = %v, want ErrUnreachable", err)
	}
	f.SetUnreachable(false)
	if _, err := r.Settle(t.Context(), client.Usage{}); err != nil {
		t.Errorf("Settle() = %v, want nil", err)
	}
}

func TestInASynctestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := clienttest.Start(clienttest.Options{Policy: rules})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		err = f.Client().Do(t.Context(), client.Estimate{Key: "acme/alice", InputTokens: 900}, func(context.Context, *client.Grant) (client.Usage, error) {
			for range 6 { // a minute, of leases of 30 s
				time.Sleep(10*time.Second + time.Millisecond) // the lease was renewed
				f.Advance(10 * time.Second)
			}
			wantUsed(t, f, "concurrent", 1)
			return client.Usage{OutputTokens: new(int64(5))}, nil
		})
		if err != nil {
			t.Errorf("Do() = %v, want nil", err)
		}
		wantUsed(t, f, "concurrent", 0)
	})
}

// Programs usually close their client when they end.
func TestTheProgramClosesTheClient(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: rules}) // whose end fails t if Close returns an error
	check(t, f, 100)
	if err := f.Client().Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if _, err := f.Client().Check(t.Context(), client.Call{Key: "acme/alice"}); !errors.Is(err, client.ErrClosed) {
		t.Errorf("Check() after Close = %v, want ErrClosed", err)
	}
}

// A program that closes its client and ignores the error loses settlements all the same.
func TestTheProgramLosesSettlements(t *testing.T) {
	f, err := clienttest.Start(clienttest.Options{Policy: rules})
	if err != nil {
		t.Fatal(err)
	}
	r := reserve(t, f)
	f.SetUnreachable(true)
	if err := r.SettleLater(client.Usage{}); err != nil {
		t.Errorf("SettleLater() = %v", err)
	}
	_ = f.Client().Close()
	const want = "the client was closed with pending settlements (1): call Flush before Close"
	if err := f.Close(); err == nil || err.Error() != want {
		t.Errorf("Close() = %v, want %q", err, want)
	}
}

func TestProblems(t *testing.T) {
	if _, err := clienttest.Start(clienttest.Options{Policy: "tiers: { free: { tokens: many } }"}); err == nil || !strings.Contains(err.Error(), "policy:1:") {
		t.Errorf("Start() = %v, want the line of the mistake", err)
	}
	f := clienttest.New(t, clienttest.Options{Policy: rules})
	if _, err := f.Used(alice, "spend"); err == nil || !strings.Contains(err.Error(), "tokens of acme/alice") {
		t.Errorf("Used(spend) = %v, want the limits that there are", err)
	}
	for want, call := range map[string]func(){
		`got "late"`:      func() { f.DenyNext("late", 0) },
		`got "send"`:      func() { f.FailNext("send", client.ErrConflict) },
		"must not be nil": func() { f.FailNext(clienttest.Check, nil) },
		"got -1s":         func() { f.Advance(-time.Second) },
	} {
		func() {
			defer func() {
				if message, _ := recover().(string); !strings.Contains(message, want) {
					t.Errorf("panics with %q, want %q in it", message, want)
				}
			}()
			call()
		}()
	}
}
