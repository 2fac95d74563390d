// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// A writer passes an answer on as it comes, and meters it.
type writer struct {
	inner   http.ResponseWriter
	control *http.ResponseController // of inner
	answer  answer
	call    *Call
	learned *estimator
	stop    context.CancelFunc // of the handler's context
	drain   bool

	request *llm.Request // nil: the answer is not read
	meter   *llm.Meter   // nil: likewise, or it has not begun, or is encoded
	status  int          // 0: the answer has not begun
	left    bool         // the caller had left when it began
	gone    bool         // it could not be written to the caller
	bytes   int64        // that the handler has written
}

var (
	_ http.Flusher  = (*writer)(nil)
	_ http.Hijacker = (*writer)(nil)
)

func (m *Middleware) writer(a answer, c *Call, q *llm.Request, stop context.CancelFunc) *writer {
	return &writer{
		inner: a.w, control: http.NewResponseController(a.w), answer: a, call: c, request: q,
		learned: &m.estimator, stop: stop, drain: m.options.Gone == Drain,
	}
}

// Unwrap is for [http.ResponseController].
func (w *writer) Unwrap() http.ResponseWriter { return w.inner }

// Hijack refuses: what is written to a connection is not metered.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

// Header implements http.ResponseWriter.
func (w *writer) Header() http.Header { return w.inner.Header() }

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.begin(status)
	}
	w.inner.WriteHeader(status)
}

// begin sets our headers over those of the handler, and makes the meter.
func (w *writer) begin(status int) {
	w.status = status
	w.left = w.answer.r.Context().Err() != nil
	h := w.inner.Header()
	w.answer.tell(h, w.call)
	if w.request == nil {
		return
	}
	if w.request.Stream {
		h.Del("Content-Length") // a chunk may be hidden
	}
	if plain(h) {
		w.meter = llm.NewMeter(w.request, status, h.Get("Content-Type"))
	}
}

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.bytes += int64(len(p))
	out := p
	if w.meter != nil {
		out = w.meter.Process(p)
		w.call.count(w.meter.StreamedTokens())
	}
	if err := w.pass(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// pass writes to the caller. Without one, a drained answer goes nowhere, and
// is read all the same.
func (w *writer) pass(p []byte) error {
	if len(p) == 0 || w.gone && w.drain {
		return nil
	}
	_, err := w.inner.Write(p)
	if err == nil || errors.Is(err, http.ErrBodyNotAllowed) || errors.Is(err, http.ErrContentLength) {
		return err // the handler's own mistakes
	}
	return w.lost(err)
}

// lost notes that the caller cannot be written to.
func (w *writer) lost(err error) error {
	w.gone = true
	if w.drain {
		return nil
	}
	w.stop()
	return err
}

// Flush implements http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// FlushError is for [http.ResponseController].
func (w *writer) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.gone && w.drain {
		return nil
	}
	err := w.control.Flush()
	if err == nil || errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return w.lost(err)
}

// end says how the call ended. returned: its handler did.
func (w *writer) end(returned bool) ending {
	if returned && w.status == 0 {
		w.begin(http.StatusOK) // as the server will
	}
	e := ending{status: w.status, input: -1, cached: -1, output: -1, metered: w.request != nil}
	gone := w.gone || w.answer.r.Context().Err() != nil
	e.broke = !returned || gone && !w.drain
	generated := w.request == nil && w.status < http.StatusMultipleChoices
	if w.meter != nil {
		if rest := w.meter.Close(); returned {
			_ = w.pass(rest) // there is nobody to tell
		}
		w.read(&e)
		generated = e.guess > 0 || w.meter.OutputBytes() > 0
	} else if w.request != nil && w.request.MaxOutput != 0 {
		// An encoded answer. A token is a byte at least, also of what is compressed.
		e.guess = w.capped(w.bytes)
		generated = w.status < http.StatusMultipleChoices
	}
	e.failed = w.status >= http.StatusMultipleChoices && !generated && (!w.left || w.drain)
	return e
}

// read fills e with what the meter knows.
func (w *writer) read(e *ending) {
	q := w.request
	used, reported := w.meter.Usage()
	e.lied = w.meter.UsageRejected()
	if reported {
		e.input, e.cached, e.output = used.Input, used.CachedInput, used.Output
		if q.InputTokens == 0 && !q.StoredInput {
			w.learned.learn(q.Model, q.InputBytes, used.Input)
		}
	} else {
		told := w.meter.PartialUsage()
		if prompted := q.InputBytes > 0 || q.InputTokens > 0; told.Input > 0 || !prompted { // 0 is no count of a prompt
			e.input, e.cached = told.Input, told.CachedInput
		}
	}
	if reported || w.meter.Finished() {
		e.broke = false // it was all there, whatever came then
	}
	if q.MaxOutput != 0 {
		e.text = w.capped(w.learned.tokens(q.Model, w.meter.OutputBytes()))
		e.guess = max(w.meter.StreamedTokens(), e.text)
		if !e.lied && w.meter.UsageIsCurrent() {
			e.guess = w.meter.StreamedTokens() // no need to go by bytes
		}
	}
}

// capped returns an estimate of output tokens, or what was granted if that is less.
func (w *writer) capped(n int64) int64 {
	if bound := w.call.bound(); bound > 0 {
		return min(n, bound)
	}
	return n
}
