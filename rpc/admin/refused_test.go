// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestRefusedAttempts writes attempts that were refused before they came to the service.
func TestRefusedAttempts(t *testing.T) {
	f := newFake(t)
	const head = `{"time":"2026-11-29T03:00:00Z","action":`
	at := netip.MustParseAddr("10.0.0.7")
	f.Refused(&auth.Attempt{Action: "reset", Caller: "gateway", Remote: "10.0.0.7:99", Address: at, Reason: "needs the scope admin"})
	f.Refused(&auth.Attempt{Action: "profile", Remote: "10.0.0.7:99", Address: at, Reason: "credentials are missing"})
	f.Refused(&auth.Attempt{Action: "drain", Caller: "gateway", Reason: strings.Repeat("x", 600)})
	f.wantLines(
		head+`"reset","result":"refused","caller":"gateway at 10.0.0.7:99","member":"n1","error":"needs the scope admin"}`,
		head+`"profile","result":"refused","caller":"10.0.0.7:99","member":"n1","error":"credentials are missing"}`,
		head+`"drain","result":"refused","caller":"gateway","member":"n1","error":"`+strings.Repeat("x", 512)+`..."}`,
	)
	for range 100 { // without a list of callers, the service refuses
		if _, err := f.ResetLimits(from("10.0.0.8:99"), &pb.ResetLimitsRequest{Key: strings.Repeat("k", 1<<20)}); grpcstatus.Code(err) != codes.PermissionDenied {
			t.Fatal(err)
		}
	}
	lines := f.lines()
	if len(lines) != 60 || len(lines[0]) > 2000 {
		t.Errorf("100 refused attempts of one address wrote %d lines, the first one of %d bytes, want 60 short ones", len(lines), len(lines[0]))
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(f.omitted)
	if families, err := registry.Gather(); err != nil || families[0].GetMetric()[0].GetCounter().GetValue() != 40 {
		t.Errorf("the attempts that are left out are counted as %v, %v, want 40", families, err)
	}
}

// TestForget writes the removal of a member once, however often it is asked for until it is
// complete.
func TestForget(t *testing.T) {
	f, ctx := newFake(t), from("10.0.0.7:4711")
	const head = `{"time":"2026-11-29T03:00:00Z","action":"forget","result":`
	const who = `,"caller":"10.0.0.7:4711","member":"n1","target":"n3"`
	errRefused, calls := errors.New("it runs"), 0
	forget := func(force, complete bool, err error) error {
		return f.Forget(ctx, "n3", force, func() (bool, error) { calls++; return complete, err }, func(err error) bool { return errors.Is(err, errRefused) })
	}
	if err := forget(false, false, errRefused); !errors.Is(err, errRefused) {
		t.Errorf("Forget() = %v, want the error of what it calls", err)
	}
	f.wantLines(head+`"started"`+who+`}`, head+`"refused"`+who+`,"error":"it runs"}`)
	for range 3 {
		if err := forget(false, false, nil); err != nil {
			t.Error(err)
		}
	}
	f.wantLines(head+`"started"`+who+`}`, head+`"pending"`+who+`}`)
	if err := forget(true, true, nil); err != nil { // another one: with force
		t.Error(err)
	}
	f.wantLines(head+`"started"`+who+`,"force":true}`, head+`"done"`+who+`,"force":true}`)
	if err := forget(false, true, nil); err != nil { // the end of the one that was pending
		t.Error(err)
	}
	f.wantLines(head + `"done"` + who + `}`)
	if err := forget(false, false, errors.New("ended")); err == nil {
		t.Error("Forget() has no error")
	}
	f.wantLines(head+`"started"`+who+`}`, head+`"unknown"`+who+`,"error":"ended"}`)

	calls = 0
	if err := os.RemoveAll(filepath.Dir(f.path)); err != nil {
		t.Fatal(err)
	}
	if err := forget(false, true, nil); grpcstatus.Code(err) != codes.Unavailable || calls != 0 {
		t.Errorf("Forget() without an audit log = %v after %d calls, want an error after none", err, calls)
	}
}
