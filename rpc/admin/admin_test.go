// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/audit"
	"github.com/bucketring/bucketring/rpc/pb"
)

// from returns the context of a call from an address.
func from(address string) context.Context {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		panic(err)
	}
	return grpcpeer.NewContext(context.Background(), &grpcpeer.Peer{Addr: a})
}

type fake struct {
	*Service
	t       *testing.T
	path    string
	calls   []*pb.AdminCall
	answer  *pb.AdminAnswer
	err     error
	drained int
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, path: filepath.Join(t.TempDir(), "audit", "log")}
	if err := os.Mkdir(filepath.Dir(f.path), 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(f.path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	f.Service = New(Options{
		Name: "n1",
		Administer: func(_ context.Context, c *pb.AdminCall) (*pb.AdminAnswer, error) {
			f.calls = append(f.calls, c)
			return f.answer, f.err
		},
		Reload: func() ([]string, string) { return []string{"policy not reloaded: bad", "keys: bad"}, "digest" },
		Drain:  func() (bool, string) { f.drained++; return f.drained > 1, "so" },
		NewID:  func() string { return "made" },
		Audit:  log, Logger: slog.New(slog.DiscardHandler),
	})
	f.now = func() time.Time { return time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC) }
	return f
}

// lines returns what the audit log has, and empties it.
func (f *fake) lines() []string {
	f.t.Helper()
	text, err := os.ReadFile(f.path)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.Truncate(f.path, 0); err != nil {
		f.t.Fatal(err)
	}
	if len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func (f *fake) wantLines(want ...string) {
	f.t.Helper()
	got := f.lines()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			f.t.Errorf("no line\n%s", want[i])
		case i >= len(want):
			f.t.Errorf("a line too much:\n%s", got[i])
		case got[i] != want[i]:
			f.t.Errorf("line %d is\n%s, want\n%s", i+1, got[i], want[i])
		}
	}
}

// TestAuditLines compares whole lines of the audit log.
func TestAuditLines(t *testing.T) {
	f, ctx := newFake(t), from("127.0.0.1:4711")
	f.answer = &pb.AdminAnswer{Answer: &pb.AdminAnswer_Change{Change: &pb.Change{
		RequestId: "made", Owner: "n2", Limits: []*pb.ChangedLimit{{Name: "tokens", Dimension: "tokens", Scope: "acme", Before: 7, After: 0}},
	}}}
	const head = `{"time":"2026-11-29T03:00:00Z","action":"reset","result":`
	const who = `,"caller":"127.0.0.1:4711","member":"n1"`
	if c, err := f.ResetLimits(ctx, &pb.ResetLimitsRequest{Key: "acme", Tier: "free", Model: "m", Limit: "tokens"}); err != nil || c.GetOwner() != "n2" {
		t.Errorf("ResetLimits() = %v, %v", c, err)
	}
	if id := f.calls[0].GetResetLimits().GetRequestId(); id != "made" || f.calls[0].GetKey() != "acme" {
		t.Errorf("the call is %v, want one with an id", f.calls[0])
	}
	body := who + `,"key":"acme","tier":"free","model":"m","limit":"tokens","request_id":"made"`
	f.wantLines(head+`"started"`+body+`}`, head+`"done"`+body+`,"limits":[{"name":"tokens","scope":"acme","before":7,"after":0}]}`)

	f.answer.GetChange().Replayed = true
	if _, err := f.ResetLimits(ctx, &pb.ResetLimitsRequest{Key: "acme", RequestId: "mine"}); err != nil {
		t.Error(err)
	}
	body = who + `,"key":"acme","request_id":"mine"`
	f.wantLines(head+`"started"`+body+`}`, head+`"replayed"`+body+`,"limits":[{"name":"tokens","scope":"acme","before":7,"after":0}]}`)

	const grant = `{"time":"2026-11-29T03:00:00Z","action":"grant","result":`
	f.answer, f.err = nil, grpcstatus.Error(codes.InvalidArgument, "amount: must be positive")
	if _, err := f.GrantCredit(ctx, &pb.GrantCreditRequest{Key: "acme", Limit: "spend", Amount: -1, LastsSeconds: 60, RequestId: "g"}); err == nil {
		t.Error("GrantCredit() has no error")
	}
	body = who + `,"key":"acme","limit":"spend","amount":-1,"lasts_seconds":60,"request_id":"g"`
	f.wantLines(grant+`"started"`+body+`}`, grant+`"refused"`+body+`,"error":"amount: must be positive"}`)

	const end = `{"time":"2026-11-29T03:00:00Z","action":"end","result":`
	f.err = grpcstatus.Error(codes.Unavailable, "no owner")
	if _, err := f.EndReservation(ctx, &pb.EndReservationRequest{Key: "acme", Reservation: "r", Charge: pb.EndCharge_END_CHARGE_NOTHING, RequestId: "e"}); err == nil {
		t.Error("EndReservation() has no error")
	}
	body = who + `,"key":"acme","reservation":"r","charge":"nothing","request_id":"e"`
	f.wantLines(end+`"started"`+body+`}`, end+`"unknown"`+body+`,"error":"no owner"}`)
	f.answer, f.err = &pb.AdminAnswer{Answer: &pb.AdminAnswer_Change{Change: &pb.Change{Status: "expired"}}}, nil
	if _, err := f.EndReservation(ctx, &pb.EndReservationRequest{Key: "acme", Reservation: "r", RequestId: "e"}); err != nil {
		t.Error(err)
	}
	body = who + `,"key":"acme","reservation":"r","charge":"progress","request_id":"e"`
	f.wantLines(end+`"started"`+body+`}`, end+`"done"`+body+`,"status":"expired"}`)

	if a, err := f.Reload(ctx, &pb.ReloadRequest{}); err != nil || len(a.GetProblems()) != 2 || a.GetPolicyDigest() != "digest" {
		t.Errorf("Reload() = %v, %v", a, err)
	}
	const reload = `{"time":"2026-11-29T03:00:00Z","action":"reload","result":`
	f.wantLines(reload+`"started"`+who+`,"request_id":"made"}`, reload+`"done"`+who+`,"request_id":"made","error":"policy not reloaded: bad; keys: bad"}`)

	const drain = `{"time":"2026-11-29T03:00:00Z","action":"drain","result":`
	for _, done := range []bool{false, true} {
		if a, err := f.Drain(ctx, &pb.DrainRequest{RequestId: "d"}); err != nil || a.GetDrained() != done || a.GetMessage() != "so" {
			t.Errorf("Drain() = %v, %v", a, err)
		}
	}
	f.wantLines(drain+`"started"`+who+`,"request_id":"d"}`, drain+`"done"`+who+`,"request_id":"d"}`)
}

// TestOnlyTheMachineAdministers calls from elsewhere: nothing is done, and the attempt is in
// the audit log.
func TestOnlyTheMachineAdministers(t *testing.T) {
	f := newFake(t)
	calls := map[string]func(context.Context) error{
		"inspect": func(ctx context.Context) error {
			_, err := f.InspectKey(ctx, &pb.InspectKeyRequest{Key: "k"})
			return err
		},
		"reset": func(ctx context.Context) error {
			_, err := f.ResetLimits(ctx, &pb.ResetLimitsRequest{Key: "k"})
			return err
		},
		"grant": func(ctx context.Context) error {
			_, err := f.GrantCredit(ctx, &pb.GrantCreditRequest{Key: "k"})
			return err
		},
		"end": func(ctx context.Context) error {
			_, err := f.EndReservation(ctx, &pb.EndReservationRequest{Key: "k"})
			return err
		},
		"reload": func(ctx context.Context) error { _, err := f.Reload(ctx, &pb.ReloadRequest{}); return err },
		"drain":  func(ctx context.Context) error { _, err := f.Drain(ctx, &pb.DrainRequest{}); return err },
	}
	for name, call := range calls {
		for _, ctx := range []context.Context{from("10.0.0.7:99"), from("[2001:db8::1]:99"), context.Background()} {
			if err := call(ctx); grpcstatus.Code(err) != codes.PermissionDenied {
				t.Errorf("%s from elsewhere = %v, want PermissionDenied", name, err)
			}
			lines := f.lines()
			if len(lines) != 1 || !strings.Contains(lines[0], `"action":"`+name+`","result":"refused"`) || !strings.Contains(lines[0], `"error":"administration `) {
				t.Errorf("%s: the audit log has %q, want one refused attempt", name, lines)
			}
		}
	}
	if len(f.calls) != 0 || f.drained != 0 {
		t.Errorf("%d calls and %d drains were made", len(f.calls), f.drained)
	}
	f.answer = &pb.AdminAnswer{Answer: &pb.AdminAnswer_State{State: &pb.InspectKeyResponse{Key: "k"}}}
	unix := grpcpeer.NewContext(context.Background(), &grpcpeer.Peer{Addr: &net.UnixAddr{Name: "@", Net: "unix"}})
	for _, ctx := range []context.Context{from("127.0.0.1:99"), from("[::1]:99"), unix} {
		if err := calls["inspect"](ctx); err != nil {
			t.Errorf("inspect from this machine = %v", err)
		}
	}
	f.wantLines() // to look is not written
}

// TestNoChangeWithoutAudit makes the audit log impossible to write.
func TestNoChangeWithoutAudit(t *testing.T) {
	f, ctx := newFake(t), from("127.0.0.1:4711")
	if err := os.RemoveAll(filepath.Dir(f.path)); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"reset":  errOf(f.ResetLimits(ctx, &pb.ResetLimitsRequest{Key: "k"})),
		"reload": errOf(f.Reload(ctx, &pb.ReloadRequest{})),
		"drain":  errOf(f.Drain(ctx, &pb.DrainRequest{})),
	} {
		if grpcstatus.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "nothing was changed, because the audit log cannot be written") {
			t.Errorf("%s without an audit log = %v", name, err)
		}
	}
	if len(f.calls) != 0 || f.drained != 0 {
		t.Error("a change was made")
	}
	if s := f.AuditStatus(); s.Lost != 3 || !strings.Contains(s.LastError, "open the audit log") {
		t.Errorf("AuditStatus() = %+v, want 3 lost lines and why", s)
	}
}

func errOf[T any](_ T, err error) error { return err }
