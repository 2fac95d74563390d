// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// stallWriter sets a write deadline that moves with each write, so that a write
// to a caller that does not read fails after the timeout.
type stallWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	set     time.Time // when the deadline was last set
}

func newStallWriter(w http.ResponseWriter, timeout time.Duration) *stallWriter {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Time{}) // clear that of the previous request; writers without deadlines cannot stall
	return &stallWriter{ResponseWriter: w, control: control, timeout: timeout}
}

// Unwrap supports [http.ResponseController].
func (w *stallWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write implements http.ResponseWriter.
func (w *stallWriter) Write(b []byte) (int, error) {
	w.extend()
	return w.ResponseWriter.Write(b)
}

// FlushError supports [http.ResponseController].
func (w *stallWriter) FlushError() error {
	w.extend()
	return w.control.Flush()
}

// Flush implements http.Flusher.
func (w *stallWriter) Flush() { _ = w.FlushError() }

// extend moves the deadline, unless it was moved a moment ago.
func (w *stallWriter) extend() {
	if now := time.Now(); now.Sub(w.set) > w.timeout/8 {
		w.set = now
		_ = w.control.SetWriteDeadline(now.Add(w.timeout))
	}
}

// end sets the deadline for what the server writes after the handler has returned.
func (w *stallWriter) end() { _ = w.control.SetWriteDeadline(time.Now().Add(w.timeout)) }

// timedBody sets a read deadline for the body of a request. The deadline also
// holds if the handler does not read the body and the server discards it.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
	timeout time.Duration

	mu struct {
		sync.Mutex
		extends bool      // the deadline moves with each read
		set     time.Time // when the deadline was last set
		ended   bool      // the body or the request has ended
	}
}

// timeBody replaces the body of r, if there is one, by a timed body.
func timeBody(r *http.Request, control *http.ResponseController, timeout time.Duration) *timedBody {
	b := &timedBody{ReadCloser: r.Body, control: control, timeout: timeout}
	if r.Body == nil || r.Body == http.NoBody {
		b.mu.ended = true
		return b
	}
	r.Body = b
	b.mu.Lock()
	defer b.mu.Unlock()
	b.extendLocked()
	return b
}

func (b *timedBody) extendLocked() {
	b.mu.set = time.Now()
	_ = b.control.SetReadDeadline(b.mu.set.Add(b.timeout))
}

// extendOnRead makes the deadline move with each read, so that the timeout bounds
// pauses instead of the whole body.
func (b *timedBody) extendOnRead() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.extends = true
}

// Read implements io.Reader.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.mu.ended:
	case errors.Is(err, io.EOF):
		b.mu.ended = true
		_ = b.control.SetReadDeadline(time.Time{}) // the server reads on to detect a disconnect
	case b.mu.extends && n > 0 && time.Since(b.mu.set) > b.timeout/8:
		b.extendLocked()
	}
	return n, err
}

// end stops setting deadlines. The server sets that of the next request.
func (b *timedBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.ended = true
}
