// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"context"
	"net/http"
	"strconv"
	"sync"
)

// generation sends one response.
type generation struct {
	w          http.ResponseWriter
	control    *http.ResponseController
	ctx        context.Context // of the request; done when the caller disconnects
	plan       *plan
	record     *record
	pace       pace
	onStart    func() // called when the status is sent
	terminated bool   // the response was ended with an error instead of a closed connection
}

// buffers holds *[]byte for batches of chunks.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// maxBatchBytes is the size at which due chunks are written without waiting for more.
const maxBatchBytes = 16 << 10

// recordGenerated records that each choice has the given number of tokens.
func (g *generation) recordGenerated(each int64) {
	sum, thought, _ := g.plan.generated(each)
	g.record.generated.Store(sum)
	g.record.reasoning.Store(thought)
}

// disconnected records what was generated until the caller disconnected: at least
// from tokens of each choice.
func (g *generation) disconnected(from int64) Outcome {
	last := min(g.plan.longest(), g.plan.disconnectAfter, g.plan.errorAfter)
	g.recordGenerated(max(from, g.pace.generated(last)))
	return Disconnected
}

// lastToken returns how many tokens each choice gets, and whether the plan interrupts
// the response there.
func (g *generation) lastToken() (at int64, early bool) {
	longest := g.plan.longest()
	if at = min(g.plan.disconnectAfter, g.plan.errorAfter); at > longest {
		return longest, false
	}
	return at, true
}

// whole sends a response without streaming, when all tokens are due.
func (g *generation) whole(render func([]byte) []byte) Outcome {
	last, early := g.lastToken()
	if !g.pace.wait(g.ctx, last) {
		return g.disconnected(0)
	}
	g.recordGenerated(last)
	if early {
		if g.plan.errorAfter > g.plan.disconnectAfter {
			return Aborted
		}
		g.terminated = true
		writeError(g.w, g.w.Header().Get("Request-Id") != "", http.StatusInternalServerError, "", "the model failed", "")
		return Aborted
	}
	body := render(nil)
	h := g.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	g.onStart()
	if _, err := g.w.Write(body); err != nil || g.control.Flush() != nil || g.ctx.Err() != nil {
		return Disconnected
	}
	_, _, visible := g.plan.generated(last)
	g.record.written.Store(visible)
	return Finished
}

// stream sends chunks when they are due. It writes chunks that are due at the same
// time together.
func (g *generation) stream(e encoder) Outcome {
	last, early := g.lastToken()
	if !g.pace.wait(g.ctx, 0) {
		return g.disconnected(0)
	}
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	h := g.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	g.onStart()
	out := e.begin((*buffer)[:0])
	for at := int64(0); at < last; {
		next := min(at+g.plan.chunk, last)
		if at < g.plan.stallAfter {
			next = min(next, g.plan.stallAfter) // send the tokens before the stall
		}
		if len(out) > 0 && (len(out) >= maxBatchBytes || g.pace.pending(next)) {
			if !g.flush(out, at) {
				*buffer = out
				return g.disconnected(at)
			}
			out = out[:0]
		}
		if !g.pace.wait(g.ctx, next) {
			*buffer = out
			return g.disconnected(at)
		}
		out = g.appendChunks(out, e, at, next)
		g.recordGenerated(next)
		at = next
	}
	switch {
	case early && g.plan.errorAfter <= g.plan.disconnectAfter:
		out, g.terminated = e.failure(out), true
	case !early:
		out = e.end(out)
	}
	flushed := g.flush(out, last)
	*buffer = out
	switch {
	case !flushed:
		return Disconnected
	case early:
		return Aborted
	}
	return Finished
}

// appendChunks appends tokens [from, to) of each choice.
func (g *generation) appendChunks(out []byte, e encoder, from, to int64) []byte {
	sum, thought, _ := g.plan.generated(to)
	total := progress{sum, thought}
	for i := range g.plan.shown {
		start, end := from, min(to, g.plan.outputs[i])
		if !g.plan.showsReasoning {
			start = max(start, g.plan.reasoning[i])
		}
		if start < end {
			out = e.chunk(out, i, start, end, total)
		}
	}
	return out
}

// flush writes out, with which each tokens of each choice have been written. It
// reports whether that succeeded.
func (g *generation) flush(out []byte, each int64) bool {
	if _, err := g.w.Write(out); err != nil || g.control.Flush() != nil {
		return false
	}
	_, _, visible := g.plan.generated(each)
	g.record.written.Store(visible)
	return true
}
