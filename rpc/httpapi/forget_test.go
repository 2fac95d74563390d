// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/rpc/pb"
)

func TestForget(t *testing.T) {
	calls := 0
	api := New(Options{
		Service: pb.UnimplementedRateLimiterServer{},
		Forget: func(_ context.Context, member string, force bool) (Forgotten, error) {
			calls++
			switch member {
			case "node-1":
				return Forgotten{Member: member, Forgotten: true, Forced: force, Roster: []string{"node-2"}, Answering: 1, Message: "it is"}, nil
			case "node-2":
				return Forgotten{Member: member, Roster: []string{"node-2"}, Message: "not yet"}, nil
			case "node-3":
				return Forgotten{}, &ForgetRefusedError{"it runs"}
			case "node-4":
				return Forgotten{}, errors.New("ended")
			}
			return Forgotten{}, &UnknownMemberError{member, []string{"node-1", "node-2"}}
		},
	})
	for _, tt := range []struct {
		method, body string
		status       int
		want         string
		calls        int
	}{
		{http.MethodPost, `{"member":"node-1"}`, 200, `{"member":"node-1","forgotten":true,"forced":false,"roster":["node-2"],"answering":1,"spare":0,"message":"it is"}`, 1},
		{http.MethodPost, `{"member":"node-1","force":true}`, 200, `"forced":true`, 1},
		{http.MethodPost, `{"member":"node-2"}`, 202, `"message":"not yet"`, 1},
		{http.MethodPost, `{"member":"node-3"}`, 409, `{"error":"refused","message":"it runs"}`, 1},
		{http.MethodPost, `{"member":"node-4"}`, 503, `{"error":"unavailable","message":"ended"}`, 1},
		{http.MethodPost, `{"member":"nod-1"}`, 404, `did you mean node-1?; members are node-1, node-2"}`, 1},
		{http.MethodPost, `{"force":true}`, 400, "member: must be given", 0},
		{http.MethodPost, `{"member":"node-1","force":"yes"}`, 400, "force: must be", 0},
		{http.MethodPost, `{"member":"node-1","sure":true}`, 400, "sure: unknown field", 0},
		{http.MethodGet, ``, 405, "/v1/forget takes POST", 0},
	} {
		calls = 0
		w := httptest.NewRecorder()
		api.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), tt.method, "/v1/forget", strings.NewReader(tt.body)))
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) || calls != tt.calls {
			t.Errorf("%s %s = %d %s after %d calls, want %d %s after %d", tt.method, tt.body, w.Code, w.Body, calls, tt.status, tt.want, tt.calls)
		}
	}

	// A web page of another origin has nobody forgotten.
	calls = 0
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/forget", strings.NewReader(`{"member":"node-1"}`))
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	if api.ServeHTTP(w, r); w.Code != http.StatusForbidden || calls != 0 {
		t.Errorf("a web page gets %d after %d calls, want 403 after none", w.Code, calls)
	}
}
