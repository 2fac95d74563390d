// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// stallWriter gives up a caller that takes nothing for a while: the timeout
// begins anew with every write.
type stallWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	set     time.Time // when the deadline was set last
}

func newStallWriter(w http.ResponseWriter, timeout time.Duration) *stallWriter {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Time{}) // that of the request before; a writer without deadlines doesn't stall
	return &stallWriter{ResponseWriter: w, control: control, timeout: timeout}
}

// Unwrap is for [http.ResponseController].
func (w *stallWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write implements http.ResponseWriter.
func (w *stallWriter) Write(b []byte) (int, error) {
	w.postpone()
	return w.ResponseWriter.Write(b)
}

// FlushError is for [http.ResponseController].
func (w *stallWriter) FlushError() error {
	w.postpone()
	return w.control.Flush()
}

// Flush implements http.Flusher.
func (w *stallWriter) Flush() { _ = w.FlushError() }

// postpone moves the deadline, unless it was moved just now.
func (w *stallWriter) postpone() {
	if now := time.Now(); now.Sub(w.set) > w.timeout/8 {
		w.set = now
		_ = w.control.SetWriteDeadline(now.Add(w.timeout))
	}
}

// end leaves the rest of the answer, which the server has yet to write, as much
// time again.
func (w *stallWriter) end() { _ = w.control.SetWriteDeadline(time.Now().Add(w.timeout)) }

// timedBody gives up a caller that does not send the body that it has announced,
// whether it is read or, behind a refusal, thrown away by the server.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
	timeout time.Duration

	mu struct {
		sync.Mutex
		pauses bool      // the timeout is that of a pause
		set    time.Time // when the deadline was set last
		ended  bool      // the body has, or the request
	}
}

// timeBody puts a timed body into r, if it has one.
func timeBody(r *http.Request, control *http.ResponseController, timeout time.Duration) *timedBody {
	b := &timedBody{ReadCloser: r.Body, control: control, timeout: timeout}
	if r.Body == nil || r.Body == http.NoBody {
		b.mu.ended = true
		return b
	}
	r.Body = b
	b.mu.Lock()
	defer b.mu.Unlock()
	b.postponeLocked()
	return b
}

func (b *timedBody) postponeLocked() {
	b.mu.set = time.Now()
	_ = b.control.SetReadDeadline(b.mu.set.Add(b.timeout))
}

// pausing lets the body go on for as long as it makes progress.
func (b *timedBody) pausing() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.pauses = true
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
		_ = b.control.SetReadDeadline(time.Time{}) // from now on it is watched whether the caller leaves
	case b.mu.pauses && n > 0 && time.Since(b.mu.set) > b.timeout/8:
		b.postponeLocked()
	}
	return n, err
}

// end leaves the connection to the server, which sets the deadline of the next
// request anew.
func (b *timedBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.ended = true
}
