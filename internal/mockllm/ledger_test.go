// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/internal/secret"
	"github.com/bucketring/bucketring/internal/waittest"
)

// entries waits until no call is in progress, and returns the entries.
func (s *testServer) entries() []Entry {
	s.t.Helper()
	s.idle()
	return s.Ledger().Entries()
}

// idle waits until no call is in progress.
func (s *testServer) idle() {
	s.t.Helper()
	if err := s.Ledger().Idle(waittest.Context(s.t, waittest.Limit)); err != nil {
		s.t.Fatalf("calls are still in progress: %v", err)
	}
}

func TestDisconnectStopsGeneration(t *testing.T) {
	s := start(t, Options{})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	response := s.post(ctx, "/v1/chat/completions", chatUsage, "X-Mock-Output-Tokens", "100", "X-Mock-Stall-After", "7", "X-Mock-Stall", "forever", "X-Mock-Label", "leaver")
	if got, err := readEvents(response.Body, 8); err != nil || len(got) != 8 { // a role and seven chunks
		t.Fatalf("%d events, %v; want 8", len(got), err)
	}
	// The ledger is updated after the chunks are written.
	waittest.Until(t, "7 generated and written tokens in the ledger", func() bool {
		e := s.Ledger().Entries()[0]
		return e.Outcome == Running && e.Generated == 7 && e.Written == 7
	})
	leave()
	e := s.entries()[0]
	if e.Outcome != Disconnected || e.Generated != 7 || e.Written != 7 || e.Caller != alice || e.Label != "leaver" || e.UnboundedOutput != 100 {
		t.Errorf("the ledger has %+v, want disconnected with 7 generated and written", e)
	}
}

func TestLedgerOverHTTP(t *testing.T) {
	s := start(t, Options{CallerHeader: "X-User"})
	s.ask("/v1/chat/completions", chatBody, "X-User", "a", "X-Mock-Output-Tokens", "5", "X-Mock-Input-Tokens", "10")
	s.idle() // entries are in the order of their ends
	s.ask("/v1/chat/completions", chatBody, "X-User", "b", "X-Mock-Fail", "503")
	s.idle()
	s.ask("/v1/chat/completions", `{"model":"m"}`, "X-User", "b")
	s.idle()
	read := func(query string) (l struct {
		Totals map[string]Totals
		Calls  []Entry
	},
	) {
		response, err := s.client.Get(s.url + "/mock/ledger" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if err := json.NewDecoder(response.Body).Decode(&l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := read("")
	want := map[string]Totals{
		"a": {Calls: 1, Finished: 1, Input: 10, Generated: 5, Written: 5},
		"b": {Calls: 2, Rejected: 1, Invalid: 1},
	}
	if diff := cmp.Diff(want, l.Totals); diff != "" || len(l.Calls) != 3 {
		t.Errorf("%d calls, totals (-want +got):\n%s", len(l.Calls), diff)
	}
	if l := read("?caller=b"); len(l.Calls) != 2 || l.Calls[0].Status != 503 || l.Calls[1].Status != 400 {
		t.Errorf("calls of b are %+v", l.Calls)
	}
	if l := read("?totals=only"); len(l.Calls) != 0 || len(l.Totals) != 2 {
		t.Errorf("?totals=only gives %+v", l)
	}
	r, err := http.NewRequest(http.MethodDelete, s.url+"/mock/ledger", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if l := read(""); len(l.Calls)+len(l.Totals) != 0 {
		t.Errorf("after a reset the ledger has %+v", l)
	}
}

// alice is what the ledger has of the key alice.
const alice = "sha256:2bd806c97f0e"

// TestLedgerHasNoKeys: who reads the ledger learns no API key.
func TestLedgerHasNoKeys(t *testing.T) {
	const key = "sk-1234567890abcdef"
	for _, header := range []string{"", "authorization", "X-API-Key"} {
		s := start(t, Options{CallerHeader: header})
		for _, headers := range [][]string{{"Authorization", "Bearer " + key, "X-Api-Key", key}, {"Authorization", "", "X-Api-Key", key}} {
			s.ask("/v1/chat/completions", chatBody, headers...)
			s.idle()
		}
		response, err := s.client.Get(s.url + "/mock/ledger")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || bytes.Contains(text, []byte(key[3:])) {
			t.Errorf("with caller header %q the ledger has the key: %s, %v", header, text, err)
		}
		caller := secret.Of(key).String()[:len(alice)]
		if got := s.Ledger().Totals(); len(got) != 1 || got[caller].Calls != 2 {
			t.Errorf("with caller header %q totals are %+v, want 2 calls of %s", header, got, caller)
		}
	}
}

func TestLedgerKeepsTheLatest(t *testing.T) {
	s := start(t, Options{LedgerSize: 2})
	for i := range 5 {
		s.ask("/v1/chat/completions", chatBody, "X-Mock-Label", fmt.Sprint(i), "X-Mock-Output-Tokens", "1")
		s.idle()
	}
	var labels []string
	for _, e := range s.entries() {
		labels = append(labels, e.Label)
	}
	if diff := cmp.Diff([]string{"3", "4"}, labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if got := s.Ledger().Totals()[alice]; got.Calls != 5 || got.Generated != 5 {
		t.Errorf("totals are %+v, want 5 calls", got)
	}
}

// The clock of a synctest bubble moves only when all goroutines wait, so times are
// exact.
func TestPace(t *testing.T) {
	for _, test := range []struct {
		name    string
		body    string
		headers []string
		want    time.Duration
	}{
		{"a stream", chatStream, nil, 500*time.Millisecond + 9*100*time.Millisecond},
		{"not streamed", chatBody, nil, 500*time.Millisecond + 9*100*time.Millisecond},
		{"a stall", chatStream, []string{"X-Mock-Stall-After", "4", "X-Mock-Stall", "3s"}, 4400 * time.Millisecond},
		{"parallel choices", strings.Replace(chatStream, "{", `{"n":4,`, 1), nil, 1400 * time.Millisecond},
		{"large chunks", chatStream, []string{"X-Mock-Chunk-Tokens", "50"}, 1400 * time.Millisecond},
		{"no delay", chatStream, []string{"X-Mock-Speed", "0", "X-Mock-TTFT", "0s"}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := New(Options{TTFT: 500 * time.Millisecond, Speed: 10, Output: Length{Min: 10, Max: 10}})
				if err != nil {
					t.Fatal(err)
				}
				r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(test.body))
				for i := 0; i < len(test.headers); i += 2 {
					r.Header.Set(test.headers[i], test.headers[i+1])
				}
				onStart := time.Now()
				s.ServeHTTP(httptest.NewRecorder(), r)
				if took := time.Since(onStart); took != test.want {
					t.Errorf("took %s, want %s", took, test.want)
				}
			})
		})
	}
}

// Generated tokens are recorded also if nothing was written.
func TestDisconnectBeforeResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{TTFT: time.Second, Speed: 10})
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			body               string
			after              time.Duration
			generated, written int64
		}{
			{chatBody, 500 * time.Millisecond, 0, 0},
			{chatBody, 1250 * time.Millisecond, 3, 0},
			{chatStream, 1250 * time.Millisecond, 3, 0},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), test.after)
			r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/chat/completions", strings.NewReader(test.body))
			r.Header.Set("X-Mock-Chunk-Tokens", "30")
			s.ServeHTTP(httptest.NewRecorder(), r)
			cancel()
			e := s.Ledger().Entries()
			if last := e[len(e)-1]; last.Outcome != Disconnected || last.Generated != test.generated || last.Written != test.written {
				t.Errorf("disconnected after %s: %+v, want %d generated and %d written", test.after, last, test.generated, test.written)
			}
		}
	})
}

func TestConcurrentStreams(t *testing.T) {
	s := start(t, Options{Speed: 200, Output: Length{Min: 20, Max: 60}, Seed: 3})
	const streams = 200
	var wait sync.WaitGroup
	for range streams {
		wait.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/v1/chat/completions", strings.NewReader(chatUsage))
			if err != nil {
				t.Error(err)
				return
			}
			response, err := s.client.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			got, err := readEvents(response.Body, -1)
			if err != nil || len(got) < 20 {
				t.Errorf("%d events, %v", len(got), err)
			}
		})
	}
	wait.Wait()
	s.idle()
	total := s.Ledger().Totals()[""]
	if total.Finished != streams || total.Generated != total.Written || total.Generated < 20*streams {
		t.Errorf("totals are %+v, want %d finished", total, streams)
	}
}
