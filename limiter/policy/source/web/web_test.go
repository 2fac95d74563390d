// SPDX-License-Identifier: Apache-2.0

package web

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

const valid = "tiers: { free: { tokens: 10/min } }\ndefault_tier: free\n"

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// feedOf returns a feed of a server on loopback.
func feedOf(t testing.TB, url string, o Options) *Feed {
	t.Helper()
	o.URL, o.Catalog = url, limiter.NewCatalog()
	f, err := New(o)
	check(t, err)
	t.Cleanup(f.Close)
	return f
}

func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// TestUnchangedIsNotSentAgain: the ETag, or else the time, saves the body, and an
// unchanged bad policy stays a problem.
func TestUnchangedIsNotSentAgain(t *testing.T) {
	for _, header := range []string{"ETag", "Last-Modified"} {
		t.Run(header, func(t *testing.T) {
			var bodies atomic.Int32
			var text, tag atomic.Value
			text.Store(valid)
			tag.Store(`Sun, 29 Nov 2026 00:00:01 GMT`)
			condition := map[string]string{"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}[header]
			f := feedOf(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get(condition) == tag.Load() {
					w.WriteHeader(http.StatusNotModified)
					return
				}
				w.Header().Set(header, tag.Load().(string))
				bodies.Add(1)
				fmt.Fprint(w, text.Load())
			}), Options{})
			first, err := f.Load(t.Context(), false)
			check(t, err)
			again, err := f.Load(t.Context(), false)
			check(t, err)
			if again != first || bodies.Load() != 1 {
				t.Errorf("the policy was sent %d times, want once", bodies.Load())
			}
			if all, err := f.Load(t.Context(), true); err != nil || all != first || bodies.Load() != 2 {
				t.Errorf("Load(all) = %v, and %d bodies, want the same policy and 2", err, bodies.Load())
			}
			text.Store("tiers: { free: { token: 10/min } }")
			tag.Store(`Sun, 29 Nov 2026 00:00:02 GMT`)
			for range 2 {
				_, err = f.Load(t.Context(), false)
				var problems policy.Problems
				if !errors.As(err, &problems) || !strings.Contains(err.Error(), `:1:18: unknown key "token"`) {
					t.Errorf("Load = %v, want the problem with its place", err)
				}
			}
			if bodies.Load() != 3 {
				t.Errorf("the policy was sent %d times, want 3 times", bodies.Load())
			}
		})
	}
}

// TestBadAnswers: each is an error that says what happened and what to do.
func TestBadAnswers(t *testing.T) {
	const most = 1 << 20
	big := strings.Repeat("#", most+1)
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"500":         {status(500), "status 500: the server cannot answer now"},
		"429":         {status(429), "status 429: the server cannot answer now"},
		"404":         {status(404), "status 404: there is no policy at this path"},
		"401":         {status(401), "--policy-token-file"},
		"204":         {status(204), "status 204, want 200"},
		"304 unasked": {status(304), "status 304, want 200"},
		"login page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, "<html>")
		}, "the content type is"},
		"too large": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, big)
		}, "the policy has more than"},
		"too large when decompressed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			fmt.Fprint(z, big)
			_ = z.Close()
		}, "the policy has more than"},
		"slow": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, "tiers:")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, "no complete answer within"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, valid)
		}, "unexpected EOF"},
		"to another scheme": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusFound)
		}, "redirected from http to https"},
		"to another machine": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://policies.example.org/", http.StatusFound)
		}, "redirected to another machine"},
		"in a circle": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}, "more than 5 redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			timeout := time.Minute
			if name == "slow" {
				timeout = 50 * time.Millisecond
			}
			url := serve(t, test.answer)
			f := feedOf(t, strings.Replace(url, "http://", "http://user:hidden-pw@", 1)+"/p?key=hidden-key", Options{Timeout: timeout})
			f.maxBytes = most
			p, err := f.Load(t.Context(), false)
			if err == nil || p != nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), url+"/p") {
				t.Fatalf("Load = %v, want %q and the URL", err, test.want)
			}
			if strings.Contains(err.Error(), "hidden") {
				t.Errorf("the error has a credential: %v", err)
			}
			if _, ok := errors.AsType[policy.Problems](err); ok {
				t.Error("the error is one of the policy, and would not be tried again soon")
			}
		})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// TestToken: the file is read for each request, so that a token can be replaced.
func TestToken(t *testing.T) {
	var want atomic.Value
	want.Store("Bearer one")
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != want.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/yaml")
		fmt.Fprint(w, valid)
	})
	file := filepath.Join(t.TempDir(), "token")
	f := feedOf(t, url, Options{TokenFile: file})
	if _, err := f.Load(t.Context(), false); err == nil || !strings.Contains(err.Error(), "policy_token_file") {
		t.Errorf("Load without the file = %v", err)
	}
	for _, token := range []string{"one", "two"} {
		want.Store("Bearer " + token)
		check(t, os.WriteFile(file, []byte("old\n"), 0o600))
		if _, err := f.Load(t.Context(), false); err == nil || !strings.Contains(err.Error(), "refuses the token of "+file) {
			t.Errorf("Load with an old token = %v", err)
		}
		check(t, os.WriteFile(file, []byte(token+"\n"), 0o600))
		if _, err := f.Load(t.Context(), false); err != nil {
			t.Errorf("Load with token %s: %v", token, err)
		}
	}
}

// TestRedirect: a redirect within the scheme is followed.
func TestRedirect(t *testing.T) {
	f := feedOf(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/new" {
			http.Redirect(w, r, "/new", http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Content-Type", "text/x-yaml")
		fmt.Fprint(w, valid)
	})+"/old", Options{})
	_, err := f.Load(t.Context(), false)
	check(t, err)
}

func TestBadURLs(t *testing.T) {
	for url, want := range map[string]string{
		"http://policies.example.org/p.yaml":       "is not encrypted",
		"https:///p.yaml":                          "want https://host/path",
		"https://user:hidden-pw@h/p":               "use one of them",
		"https://user:hidden-pw@[::1/p?hidden-key": "cannot be parsed",
	} {
		_, err := New(Options{URL: url, TokenFile: "token", Catalog: limiter.NewCatalog()})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("New(%s) = %v, want %q", url, err, want)
		}
	}
	if _, err := New(Options{URL: "http://policies.example.org/p.yaml", Insecure: true}); err != nil {
		t.Errorf("New with Insecure = %v", err)
	}
}

// TestWaitEnds with its context.
func TestWaitEnds(t *testing.T) {
	f := feedOf(t, "https://h/p", Options{Interval: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.Wait(ctx)
	f.Run(ctx)
}
