// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// callContext is the context of the calls of a connection. It is done when the client goes
// while they wait.
//
// Nothing is read of a connection while its calls are decided, so that a client that goes is
// not noticed. Whoever may wait for long asks for Done: then, after watchAfter, the connection
// is read ahead until the calls are decided. Calls that are decided at once cost nothing more.
type callContext struct {
	context.Context // with the connection, for package server
	watch           *watch
}

// Done implements context.Context.
func (c *callContext) Done() <-chan struct{} {
	c.watch.ask()
	return c.Context.Done()
}

const (
	// watchAfter is how long calls are decided before their connection is read ahead.
	watchAfter = 10 * time.Millisecond
	// maxAhead bounds what is read ahead. Of a client that has sent more, it is not noticed
	// that it goes.
	maxAhead = 16 << 10
)

// watch reads a connection ahead.
type watch struct {
	nc       net.Conn
	cancel   context.CancelFunc // ends the calls
	deciding atomic.Bool        // calls are decided
	asked    atomic.Bool        // somebody has asked for Done since they are

	mu      sync.Mutex
	timer   *time.Timer   // nil: none has been needed yet
	turn    int           // of the calls that are decided now
	running chan struct{} // closed when the connection is not read any more; nil: it is not
	ahead   []byte        // what was read
	err     error         // with which reading ended
}

// begin says that calls are decided from now on.
func (w *watch) begin() {
	w.asked.Store(false)
	w.deciding.Store(true)
}

// ask says that the calls may wait for long. What is left of earlier calls may ask at any time.
func (w *watch) ask() {
	if w.asked.Load() || w.asked.Swap(true) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.deciding.Load() || w.timer != nil {
		return
	}
	turn := w.turn
	w.timer = time.AfterFunc(watchAfter, func() { w.run(turn) })
}

// end says that the calls are decided, and stops reading ahead. It reports whether somebody had
// asked: then what was asked for may still be looked at.
func (w *watch) end() bool {
	w.deciding.Store(false)
	if !w.asked.Load() { // and if somebody does from now on, nothing comes of it
		return false
	}
	w.mu.Lock()
	w.turn++
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	running := w.running
	w.running = nil
	w.mu.Unlock()
	if running != nil {
		_ = w.nc.SetReadDeadline(longAgo) // the next read fails, too, if this does
		<-running
		_ = w.nc.SetReadDeadline(time.Time{})
	}
	return true
}

// longAgo ends a read.
var longAgo = time.Unix(1, 0)

// run reads ahead while the calls of a turn are decided.
func (w *watch) run(turn int) {
	w.mu.Lock()
	if w.turn != turn || w.err != nil {
		w.mu.Unlock()
		return
	}
	running := make(chan struct{})
	w.running = running
	w.mu.Unlock()
	defer close(running)
	var buffer [512]byte
	for {
		n, err := w.nc.Read(buffer[:])
		w.mu.Lock()
		w.ahead = append(w.ahead, buffer[:n]...)
		full := len(w.ahead) >= maxAhead
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			w.err = err
		}
		w.mu.Unlock()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			w.cancel()
		}
		if err != nil || full {
			return
		}
	}
}

// read reads from the connection, first what was read ahead.
func (w *watch) read(b []byte) (int, error) {
	if len(w.ahead) > 0 { // nothing is read ahead now, so that this needs no lock
		n := copy(b, w.ahead)
		if w.ahead = w.ahead[n:]; len(w.ahead) == 0 {
			w.ahead = nil
		}
		return n, nil
	}
	if w.err != nil {
		return 0, w.err
	}
	return w.nc.Read(b)
}
