// SPDX-License-Identifier: Apache-2.0

package node

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestRefusedAttemptsAreAudited calls verbs for administration without the scope, and
// without credentials, over HTTP and gRPC. The audit log has who, what, from where, and why.
func TestRefusedAttemptsAreAudited(t *testing.T) {
	t.Parallel()
	f, path := newAuthFile(t), filepath.Join(t.TempDir(), "audit.log")
	n := start(t, func(c *config.Config) { c.Auth, c.AuditLog = f.path, path })
	for _, call := range []struct{ method, path, caller string }{
		{http.MethodPost, "/v1/admin/reset", ""},
		{http.MethodGet, "/v1/admin/key?key=a", "gateway"},
		{http.MethodPost, "/v1/forget", "team"},
		{http.MethodGet, "/debug/pprof/heap", "stranger"},
		{http.MethodGet, "/status", "gateway"}, // not for administration
		{http.MethodPost, "/v1/check", "ops"},
	} {
		token := ""
		if call.caller != "" {
			token = f.token(call.caller)
		}
		if status, _, text := n.ask(call.method, call.path, token, "{}"); status != http.StatusUnauthorized && status != http.StatusForbidden {
			t.Errorf("%s by %q = %d %s, want a refusal", call.path, call.caller, status, text)
		}
	}
	for method := range pb.Admin_ServiceDesc.Methods { // each of them is known to the list of verbs
		name := "/" + pb.Admin_ServiceDesc.ServiceName + "/" + pb.Admin_ServiceDesc.Methods[method].MethodName
		if err := n.dialWith(f.token("gateway")).Invoke(t.Context(), name, new(pb.ReloadRequest), new(pb.ReloadResponse)); err == nil {
			t.Errorf("%s by gateway is answered", name)
		}
	}
	if status, _, text := n.ask(http.MethodPost, "/v1/forget", f.token("ops"), `{"member":"x"}`); status != http.StatusNotFound {
		t.Errorf("forget by ops = %d %s, want 404", status, text)
	}

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(text)) {
		var e struct{ Action, Result, Caller, Member, Target, Error string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		who, _, _ := strings.Cut(e.Caller, " at ")
		if strings.HasPrefix(e.Caller, "127.0.0.1:") {
			who = "-"
		} else if !strings.Contains(e.Caller, " at 127.0.0.1:") {
			t.Errorf("the caller of %s is %q, want an address", e.Action, e.Caller)
		}
		if e.Result == "refused" && e.Error == "" || e.Member == "" {
			t.Errorf("the line %s has no reason, or no member", line)
		}
		got = append(got, strings.TrimRight(e.Action+" "+e.Result+" "+who+" "+e.Target, " "))
	}
	want := []string{
		"reset refused -", "inspect refused gateway", "forget refused team", "profile refused -",
		"inspect refused gateway", "reset refused gateway", "grant refused gateway", "end refused gateway", "reload refused gateway", "drain refused gateway",
		"forget started ops x", "forget refused ops x",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the audit log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, token := range f.tokens {
		if strings.Contains(string(text), token) {
			t.Error("the audit log has a token")
		}
	}
}
