// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/secret"
)

// Server is a mock model server. It implements [http.Handler] and is safe for
// concurrent use.
type Server struct {
	options Options
	ledger  *Ledger
	mux     *http.ServeMux
}

// New returns a server. The error names every invalid option.
func New(o Options) (*Server, error) {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	s := &Server{options: o, ledger: newLedger(o.LedgerSize), mux: http.NewServeMux()}
	for path, e := range map[string]endpoint{
		"/v1/chat/completions": chat, "/v1/completions": completions, "/v1/embeddings": embeddings,
		"/v1/responses": responses, "/v1/messages": messages,
	} {
		s.mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { s.generate(w, r, e) })
	}
	s.mux.HandleFunc("POST /v1/messages/count_tokens", s.count)
	s.mux.HandleFunc("GET /v1/models", s.models)
	for _, path := range []string{"/health", "/readyz"} {
		s.mux.HandleFunc("GET "+path, func(http.ResponseWriter, *http.Request) {})
	}
	s.mux.HandleFunc("GET /mock/ledger", s.showLedger)
	s.mux.HandleFunc("DELETE /mock/ledger", func(w http.ResponseWriter, _ *http.Request) {
		s.ledger.Reset()
		w.WriteHeader(http.StatusNoContent)
	})
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, r.Header.Get("Anthropic-Version") != "", http.StatusNotFound, "", "unknown path "+r.Method+" "+r.URL.Path, "")
	})
	return s, nil
}

// Ledger returns the ledger of the server's calls.
func (s *Server) Ledger() *Ledger { return s.ledger }

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// caller returns the caller in the headers of a request. Of a key it is the beginning of its
// hash, because anybody may read the ledger.
func (s *Server) caller(h http.Header) string {
	name := cmp.Or(s.options.CallerHeader, "Authorization")
	key := h.Get(name)
	switch {
	case strings.EqualFold(name, "Authorization"):
		key = cmp.Or(strings.TrimPrefix(key, "Bearer "), h.Get("X-Api-Key"))
	case !strings.EqualFold(name, "X-Api-Key"):
		return key
	}
	if key == "" {
		return ""
	}
	return secret.Of(key).String()[:len(secret.Prefix)+shownDigits]
}

// shownDigits is how many digits of the hash of a key the ledger has.
const shownDigits = 12

// read parses the body of a request. If it is invalid, read returns the status of the
// response and the problem.
func read(w http.ResponseWriter, r *http.Request, e endpoint) (*request, int, *invalid) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return nil, http.StatusRequestEntityTooLarge, &invalid{problem: fmt.Sprintf("the body has more than %d bytes", maxBodyBytes)}
		}
		return nil, http.StatusBadRequest, &invalid{problem: fmt.Sprintf("read the body: %v", err)}
	}
	q, problem := parse(e, body)
	return q, http.StatusBadRequest, problem
}

// generate serves a call and records it in the ledger.
func (s *Server) generate(w http.ResponseWriter, r *http.Request, e endpoint) {
	now := time.Now()
	rec := s.ledger.begin(s.caller(r.Header), r.Header.Get("X-Mock-Label"), e, now)
	outcome := Aborted // the default: a panic closes the connection
	defer func() { s.ledger.finish(rec, outcome, time.Now()) }()

	q, status, problem := read(w, r, e)
	var p *plan
	if problem == nil {
		status = http.StatusBadRequest
		p, problem = s.options.newPlan(r.Header, rec.entry.Number, e, q)
	}
	id := responseID(e, s.options.Seed, rec.entry.Number)
	w.Header().Set("X-Request-Id", "req_"+id)
	if e == messages {
		w.Header().Set("Request-Id", "req_"+id)
	}
	if problem != nil {
		outcome = Invalid
		s.ledger.update(rec, func(entry *Entry) { entry.Status = status })
		writeError(w, e == messages, status, problem.param, problem.Error(), "")
		return
	}
	s.ledger.update(rec, func(entry *Entry) {
		entry.ID, entry.Model, entry.Stream = id, q.Model, q.Stream && e != embeddings
		entry.Choices, entry.MaxTokens = q.choices(e), q.maxTokens(e)
		for _, n := range p.unbounded {
			entry.UnboundedOutput += n
		}
		entry.Usage, entry.Status = string(p.usage), p.fail
		if p.fail == 0 {
			entry.Input, entry.Cached, entry.CacheWrite = p.input, p.cached, p.cacheWrite
		}
	})
	if p.fail != 0 {
		outcome = Rejected
		writeError(w, e == messages, p.fail, "", "this failure was requested", p.retryAfter)
		return
	}
	a := newAnswer(q, p, id, now.Unix())
	g := &generation{
		w: w, control: http.NewResponseController(w), ctx: r.Context(), plan: p, record: rec,
		pace: pace{plan: p, start: now}, onStart: func() { s.ledger.update(rec, func(entry *Entry) { entry.Status = http.StatusOK }) },
	}
	defer g.pace.stop()
	switch {
	case e == embeddings:
		outcome = g.whole(a.embedding)
	case q.Stream:
		outcome = g.stream(a.encoder(e))
	default:
		outcome = g.whole(a.encoder(e).whole)
	}
	if outcome == Aborted && !g.terminated {
		panic(http.ErrAbortHandler)
	}
}

// responseID returns the id of a response, which depends only on its arguments.
func responseID(e endpoint, seed uint64, number int64) string {
	prefix := [...]string{"chatcmpl-", "cmpl-", "embd-", "resp_", "msg_"}[e]
	mixed := (uint64(number) ^ bits.RotateLeft64(seed, 17)) * 0x9e3779b97f4a7c15
	return fmt.Sprintf("%s%016x%08x", prefix, mixed, number)
}

// count serves /v1/messages/count_tokens.
func (s *Server) count(w http.ResponseWriter, r *http.Request) {
	q, status, problem := read(w, r, chat) // not messages, which would require max_tokens
	if problem != nil {
		writeError(w, true, status, problem.param, problem.Error(), "")
		return
	}
	writeJSON(w, http.StatusOK, map[string]int64{"input_tokens": q.input(s.options.BytesPerToken)})
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	var list []model
	for _, name := range s.options.Models {
		list = append(list, model{name, "model", 1_700_000_000, "mock"})
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": list})
}

// showLedger returns the sums by caller and the calls. ?caller= and ?label= select
// calls, and ?totals=only omits them.
func (s *Server) showLedger(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	caller, label := query.Get("caller"), query.Get("label")
	shown := struct {
		Totals map[string]Totals `json:"totals"`
		Calls  []Entry           `json:"calls,omitempty"`
	}{Totals: s.ledger.Totals()}
	if query.Get("totals") != "only" {
		for _, e := range s.ledger.Entries() {
			if (caller == "" || e.Caller == caller) && (label == "" || e.Label == label) {
				shown.Calls = append(shown.Calls, e)
			}
		}
	}
	writeJSON(w, http.StatusOK, shown)
}

// writeError writes an error response in the format of OpenAI or Anthropic.
func writeError(w http.ResponseWriter, anthropic bool, status int, param, message, retryAfter string) {
	if retryAfter != "" {
		w.Header().Set("Retry-After", retryAfter)
	}
	kind, code := "invalid_request_error", any(nil)
	switch {
	case status == http.StatusTooManyRequests && anthropic:
		kind = "rate_limit_error"
	case status == http.StatusTooManyRequests:
		kind, code = "requests", "rate_limit_exceeded"
	case status == http.StatusServiceUnavailable && anthropic, status == 529:
		kind = "overloaded_error"
	case status >= 500 && anthropic:
		kind = "api_error"
	case status >= 500:
		kind, code = "server_error", strconv.Itoa(status)
	case status == http.StatusNotFound && anthropic:
		kind = "not_found_error"
	}
	if anthropic {
		writeJSON(w, status, map[string]any{
			"type": "error", "error": map[string]any{"type": kind, "message": message}, "request_id": w.Header().Get("Request-Id"),
		})
		return
	}
	body := map[string]any{"message": message, "type": kind, "param": nil, "code": code}
	if param != "" {
		body["param"] = param
	}
	writeJSON(w, status, map[string]any{"error": body})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only if the caller has disconnected
}
