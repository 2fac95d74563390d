// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/rpc/internal/coding"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// StreamUsage says whether the model server is asked for the usage of streams
// (stream_options.include_usage). If the caller did not ask for it, the extra chunk is
// removed from the response. Streams without usage are charged an estimate.
type StreamUsage uint8

const (
	// StreamUsageAuto asks. A call that the model server refuses because of
	// stream_options, with a 400 or 422 that names them, is sent once more without them.
	// For ten minutes, calls for the same model are then sent without them at once.
	StreamUsageAuto StreamUsage = iota
	// StreamUsageAlways asks, and passes refusals to the caller.
	StreamUsageAlways
	// StreamUsageNever sends stream_options as they came.
	StreamUsageNever
)

var streamUsageNames = [...]string{"auto", "always", "never"}

// String returns "auto", "always" or "never".
func (u StreamUsage) String() string {
	if int(u) < len(streamUsageNames) {
		return streamUsageNames[u]
	}
	return fmt.Sprintf("StreamUsage(%d)", uint8(u))
}

// ParseStreamUsage parses "auto", "always" or "never".
func ParseStreamUsage(text string) (StreamUsage, error) {
	for i, name := range streamUsageNames {
		if text == name {
			return StreamUsage(i), nil
		}
	}
	return 0, fmt.Errorf("must be auto, always or never, got %q", text)
}

const (
	refusalLifetime = 10 * time.Minute
	maxRefusals     = 1024
	maxHeldResponse = 16 << 10 // a larger response to a refused call is passed on
	maxDecodedError = 64 << 10 // of such a response
)

// refusals are the models for which the model server refuses stream_options. It is safe
// for concurrent use, and reading takes no lock.
type refusals struct {
	mu  sync.Mutex // held to add
	set atomic.Pointer[map[refusalKey]time.Time]
}

type refusalKey struct {
	endpoint llm.Endpoint
	model    uint64 // hash
}

func refusalKeyOf(q *llm.Request) refusalKey {
	return refusalKey{q.Endpoint, maphash.String(hashSeed, q.Model)}
}

// has reports whether a request for that model was refused lately.
func (r *refusals) has(q *llm.Request, now func() time.Time) bool {
	set := r.set.Load()
	if set == nil {
		return false
	}
	until, ok := (*set)[refusalKeyOf(q)]
	return ok && now().Before(until)
}

// add remembers a refusal. If there are too many, the one that ends first is forgotten.
func (r *refusals) add(q *llm.Request, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[refusalKey]time.Time{}
	if set := r.set.Load(); set != nil {
		next = maps.Clone(*set)
	}
	maps.DeleteFunc(next, func(_ refusalKey, until time.Time) bool { return !now.Before(until) })
	next[refusalKeyOf(q)] = now.Add(refusalLifetime)
	if len(next) > maxRefusals {
		var first refusalKey
		for key, until := range next {
			if ends, ok := next[first]; !ok || until.Before(ends) {
				first = key
			}
		}
		delete(next, first)
	}
	r.set.Store(&next)
}

// asksUsage reports whether to ask for the usage of a stream. refused: the model server
// would refuse that.
func (m *Middleware) asksUsage(q *llm.Request) (ask, refused bool) {
	switch {
	case m.options.StreamUsage == StreamUsageNever || !q.NeedsUsageOption():
		return false, false
	case m.options.StreamUsage == StreamUsageAuto && m.refusals.has(q, m.now):
		return false, true
	}
	return true, false
}

// run calls next with a request. If stream_options were added to it and are refused, it
// calls next once more without them.
func (m *Middleware) run(w *writer, r *http.Request, next http.Handler) {
	q := w.request
	if q == nil || m.options.StreamUsage != StreamUsageAuto || !q.AddedStreamOptions() {
		next.ServeHTTP(w, r)
		return
	}
	t := &trialWriter{writer: w, before: w.Header().Clone()}
	next.ServeHTTP(t, r)
	if t.status == 0 {
		return
	}
	content := w.body.content()
	if content == nil || r.Context().Err() != nil || !namesStreamOptions(t.error()) {
		t.release()
		return
	}
	h := w.Header()
	clear(h)
	maps.Copy(h, t.before)
	w.call.usageRefused = true
	next.ServeHTTP(w, withBody(r, w.body, q.WithoutStreamOptions(content), true))
	if w.status < http.StatusBadRequest { // else the reason was another one
		m.refusals.add(q, m.now())
	}
}

// namesStreamOptions reports whether the body of an error names what was added, in any
// spelling: as stream_options, streamOptions, "stream options", ["stream", "options"] or
// with escapes such as \u005f.
func namesStreamOptions(body []byte) bool {
	letters := make([]byte, 0, len(body))
	for i := 0; i < len(body); i++ {
		c := body[i] | 0x20 // in lower case, if it is a letter
		switch {
		case c >= 'a' && c <= 'z':
			letters = append(letters, c)
		case body[i] == '\\' && i+5 < len(body) && body[i+1] == 'u':
			i += 5
		case body[i] == '\\':
			i++
		}
	}
	return bytes.Contains(letters, []byte("streamoptions")) || bytes.Contains(letters, []byte("includeusage"))
}

// A trialWriter holds back a response with status 400 or 422, so that another attempt can
// take its place. It passes any other response on.
type trialWriter struct {
	*writer
	before http.Header // of the response, before the handler was called
	status int         // that is held back; 0: none
	held   []byte
}

// error returns the body that is held back, decoded. If it cannot be decoded, that is what
// could be.
func (t *trialWriter) error() []byte {
	codings, err := coding.Of(t.Header())
	if err != nil || len(codings) == 0 {
		return t.held
	}
	memory := decoderMemory{budget: t.bodies, root: keypath.Root(t.call.Key())}
	defer memory.release()
	r := coding.NewReader(bytes.NewReader(t.held), coding.Options{Codings: codings, MaxBytes: maxDecodedError, Reserve: memory.reserve})
	defer r.Close()
	decoded, _ := io.ReadAll(r) // up to an error
	return decoded
}

// WriteHeader implements http.ResponseWriter.
func (t *trialWriter) WriteHeader(status int) {
	switch {
	case t.status != 0:
	case t.writer.status == 0 && (status == http.StatusBadRequest || status == http.StatusUnprocessableEntity):
		t.status = status
	default:
		t.writer.WriteHeader(status)
	}
}

// Write implements http.ResponseWriter.
func (t *trialWriter) Write(p []byte) (int, error) {
	if t.status != 0 && len(t.held)+len(p) <= maxHeldResponse {
		t.held = append(t.held, p...)
		return len(p), nil
	}
	t.release()
	return t.writer.Write(p)
}

// release passes on what was held back.
func (t *trialWriter) release() {
	if t.status == 0 {
		return
	}
	t.writer.WriteHeader(t.status)
	held := t.held
	t.status, t.held = 0, nil
	if len(held) > 0 {
		_, _ = t.writer.Write(held) // a failed write fails again, for the handler
	}
}

// Flush implements http.Flusher.
func (t *trialWriter) Flush() { _ = t.FlushError() }

// FlushError supports [http.ResponseController].
func (t *trialWriter) FlushError() error {
	if t.status != 0 {
		return nil
	}
	return t.writer.FlushError()
}
