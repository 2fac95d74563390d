// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	grpcstatus "google.golang.org/grpc/status"
)

func TestHTTP(t *testing.T) {
	w := newWorld(t, callersText())
	request := func(path, header, value string) error {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.RemoteAddr = somewhere
		if header != "" {
			r.Header.Set(header, value)
		}
		_, err := w.HTTP(r)
		return err
	}
	basic := func(password string) string {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.SetBasicAuth("anybody", password)
		return r.Header.Get("Authorization")
	}
	for _, test := range []struct{ path, authorization, want string }{
		{"/livez", "", ""},
		{"/readyz", "Bearer wrong", ""},
		{"/safez", "", ""},
		{"/metrics", "", "Unauthenticated"},
		{"/metrics", "Bearer prom", ""},
		{"/metrics", "Bearer ops", ""},
		{"/metrics", "Bearer gate-1", "PermissionDenied"},
		{"/status", "Bearer ops", ""},
		{"/status", "bearer ops", ""},
		{"/status", basic("ops"), ""},
		{"/status", basic("wrong"), "Unauthenticated"},
		{"/", "", ""},
		{"/v1/limits", basic("ops"), ""}, // the page asks for them
		{"/v1/limits", basic("wrong"), "Unauthenticated"},
		{"/v1/owner", basic("ops"), "Unauthenticated"},
		{"/v1/check", basic("gate-1"), "Unauthenticated"}, // browsers send it by themselves
		{"/v1/check", "Bearer gate-1", ""},
		{"/v1/check", "gate-1", "Unauthenticated"},
		{"/v1/forget", "Bearer gate-1", "PermissionDenied"},
		{"/v1/forget", "Bearer ops", ""},
		{"/debug/pprof/", "Bearer gate-1", "PermissionDenied"},
		{"/debug/pprof/", "Bearer ops", ""},
		{"/json", "Bearer team", "PermissionDenied"},
	} {
		got := ""
		if err := request(test.path, "Authorization", test.authorization); err != nil {
			got = grpcstatus.Code(err).String()
		}
		if got != test.want {
			t.Errorf("%s with %q = %q, want %q", test.path, test.authorization, got, test.want)
		}
	}
	post := httptest.NewRequest(http.MethodPost, "/v1/limits", nil)
	post.SetBasicAuth("anybody", "ops")
	if _, err := w.HTTP(post); grpcstatus.Code(err).String() != "Unauthenticated" {
		t.Errorf("POST with a password: %v, want Unauthenticated", err)
	}
	refused, _ := errors.AsType[*Error](request("/v1/check", "", ""))
	if refused == nil || !slices.Equal(refused.Challenges, bearerChallenges) {
		t.Errorf("challenge = %+v, want Bearer", refused)
	}
	if refused, _ = errors.AsType[*Error](request("/status", "", "")); refused == nil || !slices.Equal(refused.Challenges, []string{bearerChallenges[0], passwordChallenge}) {
		t.Errorf("challenge of the page = %+v, want Basic", refused)
	}
}
