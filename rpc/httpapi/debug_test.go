// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestProfiles: only callers on the machine of the node get profiles, for a bounded time.
func TestProfiles(t *testing.T) {
	h := New(Options{})
	for _, test := range []struct {
		name, path, from, host, header string
		want                           int
		body                           string
	}{
		{"the list", "/debug/pprof/", "127.0.0.1:1", "127.0.0.1:6470", "", 200, "goroutine"},
		{"by IPv6", "/debug/pprof/heap?debug=1", "[::1]:1", "[::1]:6470", "", 200, "heap profile"},
		{"goroutines", "/debug/pprof/goroutine?debug=1", "127.0.0.1:1", "localhost:6470", "", 200, "goroutine profile"},
		{"a short CPU profile", "/debug/pprof/profile?seconds=1", "127.0.0.1:1", "localhost", "", 200, ""},
		{"the command", "/debug/pprof/cmdline", "127.0.0.1:1", "localhost", "", 200, ""},
		{"an unknown profile", "/debug/pprof/nonsense", "127.0.0.1:1", "localhost", "", 404, "Unknown profile"},
		{"another machine", "/debug/pprof/", "192.0.2.1:1", "127.0.0.1:6470", "", 403, "loopback"},
		{"another machine, one profile", "/debug/pprof/heap", "192.0.2.1:1", "127.0.0.1:6470", "", 403, "loopback"},
		{"no address", "/debug/pprof/", "@", "127.0.0.1:6470", "", 403, "loopback"},
		{"through a proxy", "/debug/pprof/", "127.0.0.1:1", "127.0.0.1:6470", "X-Forwarded-For", 403, "loopback"},
		{"a name that leads here", "/debug/pprof/", "127.0.0.1:1", "attacker.example:6470", "", 403, "loopback"},
		{"too long", "/debug/pprof/profile?seconds=31", "127.0.0.1:1", "localhost", "", 400, "must be a whole number from 1 to 30, got \\\"31\\\""},
		{"a trace that is too long", "/debug/pprof/trace?seconds=6", "127.0.0.1:1", "localhost", "", 400, "from 1 to 5"},
		{"a difference that takes too long", "/debug/pprof/heap?seconds=31", "127.0.0.1:1", "localhost", "", 400, "from 1 to 30"},
		{"no number", "/debug/pprof/profile?seconds=0.5", "127.0.0.1:1", "localhost", "", 400, "seconds"},
	} {
		r := httptest.NewRequest(http.MethodGet, test.path, nil)
		r.RemoteAddr, r.Host = test.from, test.host
		if test.header != "" {
			r.Header.Set(test.header, "192.0.2.1")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != test.want || !strings.Contains(w.Body.String(), test.body) {
			t.Errorf("%s: %s = %d %.300q, want %d with %q", test.name, test.path, w.Code, w.Body.String(), test.want, test.body)
		}
	}
}
