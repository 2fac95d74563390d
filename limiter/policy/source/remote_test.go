// SPDX-License-Identifier: Apache-2.0

package source

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// webServer answers with a policy of some tokens per minute, or with a status.
type webServer struct {
	url    string
	answer atomic.Value // string: a body; int: a status
}

func newWebServer(t *testing.T) *webServer {
	t.Helper()
	s := &webServer{}
	s.answer.Store(any(answer{body: text(1)}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a := s.answer.Load().(answer)
		if a.status != 0 {
			w.WriteHeader(a.status)
			return
		}
		w.Header().Set("Content-Type", "application/yaml")
		fmt.Fprint(w, a.body)
	}))
	t.Cleanup(server.Close)
	s.url = strings.Replace(server.URL, "http://", "http://user:hidden-pw@", 1) + "/policy.yaml?key=hidden-key"
	return s
}

type answer struct {
	body   string
	status int
}

func (s *webServer) set(a answer) { s.answer.Store(any(a)) }

// TestRemoteFollowsItsSource: a change is in force; a source that is down, or invalid,
// changes nothing, is said once with what is wrong, and is left when it is over.
func TestRemoteFollowsItsSource(t *testing.T) {
	server := newWebServer(t)
	var changes atomic.Int32
	s, out := start(t, server.url, Options{Interval: time.Millisecond, OnChange: func(*policy.Policy) { changes.Add(1) }})
	waitTokens(t, s, 1)
	server.set(answer{body: text(2)})
	waitTokens(t, s, 2)
	waittest.Until(t, "a call of OnChange, after the policy is in force", func() bool { return changes.Load() > 0 })
	if st := s.Status(); st.Source != "http" || st.ConfirmedAt.IsZero() || !st.StaleSince.IsZero() || st.LastGood || st.Reloads != 1 || changes.Load() != 1 {
		t.Errorf("Status() = %+v, and %d calls of OnChange", st, changes.Load())
	}
	for _, bad := range []struct {
		answer
		want string
	}{{answer{status: 503}, "status 503"}, {answer{body: "tiers: { free: { token: 1/min } }"}, "unknown key"}} {
		before := s.Current()
		server.set(bad.answer)
		waittest.Until(t, bad.want, func() bool { return strings.Contains(s.Status().LastError, bad.want) })
		if st := s.Status(); st.StaleSince.IsZero() || s.Current() != before {
			t.Errorf("Status() = %+v, want one that is stale, with the policy kept", st)
		}
		waittest.Until(t, "log of "+bad.want, func() bool { return out.count(bad.want) == 1 })
	}
	confirmed := s.Status().ConfirmedAt
	server.set(answer{body: text(2)})
	waittest.Until(t, "recovery", func() bool {
		st := s.Status()
		return st.LastError == "" && st.StaleSince.IsZero() && st.ConfirmedAt.After(confirmed)
	})
	server.set(answer{body: text(3)})
	waitTokens(t, s, 3)
	if n := out.count("hidden"); n != 0 {
		t.Errorf("the log has credentials %d times", n)
	}
	if st := fmt.Sprintf("%+v", s.Status()); strings.Contains(st, "hidden") {
		t.Errorf("the status has credentials: %s", st)
	}
	if n := out.count("policy not reloaded"); n != 2 {
		t.Errorf("logged %d failures, want 2", n)
	}
}

// TestLastGood: with the last good policy on disk, a store starts while its source is down
// or invalid, says so, and follows the source again.
func TestLastGood(t *testing.T) {
	server := newWebServer(t)
	dir := filepath.Join(t.TempDir(), "data")
	file := filepath.Join(dir, lastGoodName)
	open := func() (*Store, error) {
		return New(Options{Path: server.url, Catalog: limiter.NewCatalog(), Directory: dir, Logger: slog.New(slog.DiscardHandler)})
	}
	server.set(answer{status: 500})
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "status 500") || !strings.Contains(err.Error(), "does not exist yet") {
		t.Errorf("New without a last good policy = %v", err)
	}
	server.set(answer{body: text(1)})
	t.Run("writes", func(t *testing.T) {
		s, _ := start(t, server.url, Options{Interval: time.Millisecond, Directory: dir})
		server.set(answer{body: text(7)})
		waitTokens(t, s, 7)
		waittest.Until(t, "file with the policy", func() bool {
			kept, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(kept), s.Current().Digest())
		})
	}) // the end of the subtest ends the store
	for name, bad := range map[string]answer{"down": {status: 503}, "invalid": {body: "tiers: {}"}} {
		t.Run(name, func(t *testing.T) {
			server.set(bad)
			s, out := start(t, server.url, Options{Interval: time.Millisecond, Directory: dir})
			if got := tokens(s); got != 7 {
				t.Errorf("started with %d tokens, want 7", got)
			}
			if st := s.Status(); !st.LastGood || st.StaleSince.IsZero() || st.LoadedAt.IsZero() || st.LastError == "" {
				t.Errorf("Status() = %+v", st)
			}
			if out.count("started with the last good policy") != 1 {
				t.Error("the log does not say that the policy is the last good one")
			}
			server.set(answer{body: text(7)})
			waittest.Until(t, "recovery", func() bool { st := s.Status(); return !st.LastGood && st.LastError == "" })
		})
	}
	server.set(answer{status: 503})
	kept, err := os.ReadFile(file)
	check(t, err)
	if strings.Contains(string(kept), "hidden") {
		t.Errorf("the file has credentials:\n%s", kept)
	}
	signed := func(text string) string {
		body, _, _ := strings.Cut(text, lastGoodSum)
		return fmt.Sprintf("%s%s%x\n", body, lastGoodSum, sha256.Sum256([]byte(body)))
	}
	for want, damaged := range map[string]string{
		"is of another source": signed(strings.Replace(string(kept), lastGoodSource, lastGoodSource+"x", 1)),
		"is damaged":           strings.Replace(string(kept), `"7"`, `"8"`, 1),
		"is damaged: it":       string(kept[:len(kept)/2]),
		"window":               signed(strings.Replace(string(kept), `window: "1m"`, `window: "1x"`, 1)),
		"does not say when":    signed(strings.Replace(string(kept), lastGoodAt, "# ", 1)),
	} {
		check(t, os.WriteFile(file, []byte(damaged), 0o600))
		if _, err := open(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New with a damaged file = %v, want %q", err, want)
		}
	}
}

// TestLastGoodCannotBeWritten: a directory that cannot be written is said once, and does not
// stop the node.
func TestLastGoodCannotBeWritten(t *testing.T) {
	server := newWebServer(t)
	dir := filepath.Join(t.TempDir(), "data")
	write(t, dir, "a file, not a directory")
	s, out := start(t, server.url, Options{Interval: time.Millisecond, Directory: dir})
	waittest.Until(t, "log", func() bool { return out.count("the last good policy is not kept") == 1 })
	server.set(answer{body: text(2)})
	waitTokens(t, s, 2)
}

func TestURLs(t *testing.T) {
	for path, want := range map[string]string{
		"ftp://h/p": "must begin with https:// or postgres://", "http://h.example.org/p": "is not encrypted", "postgres://u:hidden@h.example.org/db": "sslmode=verify-full",
	} {
		_, err := New(Options{Path: path, Catalog: limiter.NewCatalog()})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("New(%s) = %v, want %q", path, err, want)
		}
	}
}
