// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/coding"
	"github.com/bucketring/bucketring/rpc/internal/dialect"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// A writer forwards a response unbuffered and meters it.
type writer struct {
	inner     http.ResponseWriter
	control   *http.ResponseController // of inner
	exchange  exchange
	call      *Call
	estimator *estimator
	cancel    context.CancelFunc // of the handler's context
	drain     bool               // OnDisconnect is Drain

	chargeServerErrors bool

	bodies   *bodyBudget
	body     *body        // nil: the middleware has not read it
	request  *llm.Request // nil: the response is not read
	meter    *llm.Meter   // nil: the response is not read, cannot be decoded, or has not started
	decoding *decoding    // nil: the response is not encoded; otherwise it uses meter
	status   int          // 0: the response has not started
	late     bool         // the caller had disconnected when the response started
	broken   bool         // a write to the caller has failed
	bytes    int64        // written by the handler
	first    time.Time    // when the first of them was written
}

var (
	_ http.Flusher  = (*writer)(nil)
	_ http.Hijacker = (*writer)(nil)
)

func (m *Middleware) newWriter(x exchange, c *Call, q *llm.Request, cancel context.CancelFunc) *writer {
	return &writer{
		inner: x.w, control: http.NewResponseController(x.w), exchange: x, call: c, request: q, bodies: m.bodies,
		estimator: &m.estimator, cancel: cancel, drain: m.options.OnDisconnect == Drain,
		chargeServerErrors: m.options.ChargeServerErrors,
	}
}

// Unwrap supports [http.ResponseController].
func (w *writer) Unwrap() http.ResponseWriter { return w.inner }

// Hijack returns [http.ErrNotSupported], because a hijacked connection cannot be
// metered. Without it, [http.ResponseController] would hijack the inner writer.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

// Header implements http.ResponseWriter.
func (w *writer) Header() http.Header { return w.inner.Header() }

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if status < http.StatusOK {
		dialect.RemoveHeaders(w.inner.Header())
	} else if w.status == 0 {
		w.start(status)
	}
	w.inner.WriteHeader(status)
}

// start sets the headers of the decision, which override those of the handler,
// and creates the meter.
func (w *writer) start(status int) {
	w.status = status
	w.late = w.exchange.r.Context().Err() != nil
	h := w.inner.Header()
	w.exchange.setHeaders(h, w.call)
	if w.body != nil {
		w.body.responseStarted()
	}
	if w.request == nil {
		return
	}
	codings, err := coding.Of(h)
	if err != nil {
		return // the size of the response is charged
	}
	w.meter = llm.NewMeter(w.request, status, h.Get("Content-Type"))
	if len(codings) > 0 {
		w.decoding = w.newDecoding(codings)
	} else if w.request.Stream {
		h.Del("Content-Length") // the meter may remove a chunk
	}
}

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.bytes == 0 && len(p) > 0 {
		w.first = time.Now()
	}
	w.bytes += int64(len(p))
	if w.decoding != nil {
		return w.writeEncoded(p)
	}
	out := p
	if w.meter != nil {
		out = w.meter.Process(p)
		w.call.recordOutput(w.meter.StreamedTokens())
	}
	if err := w.forward(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// writeEncoded forwards p and meters what it decodes to. The caller of a stream gets it
// before that.
func (w *writer) writeEncoded(p []byte) (int, error) {
	err := w.forward(p)
	if err == nil && w.request.Stream && !w.broken {
		_ = w.control.Flush() // an error is that of the next write, too
	}
	w.decoding.write(p)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// forward writes to the caller. A drained response is discarded after a write
// has failed.
func (w *writer) forward(p []byte) error {
	if len(p) == 0 || w.broken && w.drain {
		return nil
	}
	_, err := w.inner.Write(p)
	if err == nil || errors.Is(err, http.ErrBodyNotAllowed) || errors.Is(err, http.ErrContentLength) {
		return err // an error of the handler, not of the connection
	}
	return w.writeFailed(err)
}

// writeFailed records that a write to the caller has failed. Unless the response
// is drained, it cancels the handler and returns err.
func (w *writer) writeFailed(err error) error {
	w.broken = true
	if w.drain {
		return nil
	}
	w.cancel()
	return err
}

// Flush implements http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// FlushError supports [http.ResponseController].
func (w *writer) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.broken && w.drain {
		return nil
	}
	err := w.control.Flush()
	if err == nil || errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return w.writeFailed(err)
}

// ending describes how the call ended. returned is false if the handler panicked.
func (w *writer) ending(returned bool) ending {
	if returned && w.status == 0 {
		w.start(http.StatusOK) // the server sends this status
	}
	dialect.RemoveTrailers(w.inner.Header())
	e := ending{status: w.status, firstByte: w.first, usage: llm.Usage{Input: -1, Output: -1}, metered: w.request != nil}
	disconnected := w.broken || w.exchange.r.Context().Err() != nil
	e.incomplete = !returned || disconnected && !w.drain
	hasOutput := w.request == nil && w.status < http.StatusMultipleChoices
	decoded := w.meter != nil
	if w.decoding != nil {
		decoded = w.decoding.close(e.incomplete)
	}
	if w.meter != nil {
		if rest := w.meter.Close(); returned && w.decoding == nil {
			_ = w.forward(rest) // the handler has returned and cannot get an error
		}
		w.readMeter(&e)
		hasOutput = e.outputGuess > 0 || w.meter.OutputBytes() > 0
	}
	if w.request != nil && !decoded && e.usage.Output < 0 {
		if w.request.MaxOutput != 0 { // count a token for each encoded byte
			e.outputGuess = max(e.outputGuess, w.capAtGrant(w.bytes))
		}
		hasOutput = hasOutput || w.status < http.StatusMultipleChoices
	}
	if w.decoding != nil || w.request != nil && !decoded {
		w.call.metering.metrics.responseEncoded(decoded)
	}
	e.failed = w.status >= http.StatusMultipleChoices && !hasOutput && (!w.late || w.drain)
	e.rejected = e.failed && (w.status < http.StatusInternalServerError || w.chargeServerErrors)
	return e
}

// readMeter sets the fields of e that come from the meter.
func (w *writer) readMeter(e *ending) {
	q := w.request
	final, reported := w.meter.Usage()
	e.usageRejected = w.meter.UsageRejected()
	if reported {
		e.usage = final
		if q.InputTokens == 0 && !q.StoredInput && !q.FixedSize {
			w.estimator.learn(w.call.Key(), q.Model, q.InputBytes, final.Input)
		}
		w.call.metering.metrics.accuracy.add(q.Model, w.call.predicted, final.Input)
	} else {
		partial := w.meter.PartialUsage()
		partial.Output = -1
		if partial.Input == 0 && q.HasPrompt() { // not plausible
			partial.Input = -1
		}
		e.usage = partial
	}
	if reported || w.meter.Finished() {
		e.incomplete = false // whatever happened after the end of the response
	}
	if e.usageRejected {
		input, output := w.meter.Claim()
		e.claimedInput = max(input, 0)
		if granted := w.call.maxOutput(); granted <= 0 || output <= granted {
			e.claimedOutput = max(output, 0)
		}
	}
	generates := q.Endpoint != llm.Embeddings && q.Endpoint != llm.Other
	if q.MaxOutput != 0 || generates && w.meter.OutputBytes() > 0 { // a server may ignore a bound of 0
		e.textOutput = w.capAtGrant(w.estimator.text(w.call.Key(), q.Model, w.meter.OutputBytes()))
		e.outputGuess = max(w.meter.StreamedTokens(), e.textOutput)
		if !e.usageRejected && w.meter.UsageIsCurrent() {
			e.outputGuess = w.meter.StreamedTokens()
		}
	}
}

// capAtGrant returns n, or the granted output of all choices if that is less and bounds
// the call.
func (w *writer) capAtGrant(n int64) int64 {
	if !w.call.bounded {
		return n
	}
	if granted := w.call.maxOutput(); granted > 0 {
		return min(n, granted)
	}
	return n
}
