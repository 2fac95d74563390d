// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"context"
	"net/http"
	"strconv"
	"sync"
)

// generation is one answer on its way.
type generation struct {
	w       http.ResponseWriter
	control *http.ResponseController
	ctx     context.Context // of the request: done when the caller leaves
	plan    *plan
	record  *record
	pace    pace
	begun   func() // the status is on its way
	ended   bool   // the answer has an end of its own, though it is broken
}

// buffers are those of pieces; they hold *[]byte.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// enough is when pieces that are due are no longer gathered into one write.
const enough = 16 << 10

// made notes that each choice has so many tokens.
func (g *generation) made(each int64) {
	sum, thought, _ := g.plan.generated(each)
	g.record.generated.Store(sum)
	g.record.reasoning.Store(thought)
}

// left notes what was generated until the caller went away.
func (g *generation) left(from int64) Outcome {
	last := min(g.plan.longest(), g.plan.breakAfter, g.plan.errorAfter)
	g.made(max(from, g.pace.made(last)))
	return Left
}

// stopsAt is how many tokens each choice gets, and whether the plan ends the
// answer there though it is not done.
func (g *generation) stopsAt() (at int64, early bool) {
	longest := g.plan.longest()
	if at = min(g.plan.breakAfter, g.plan.errorAfter); at > longest {
		return longest, false
	}
	return at, true
}

// whole sends the answer in one piece when all of it is there.
func (g *generation) whole(render func([]byte) []byte) Outcome {
	last, early := g.stopsAt()
	if !g.pace.wait(g.ctx, last) {
		return g.left(0)
	}
	g.made(last)
	if early {
		if g.plan.errorAfter > g.plan.breakAfter {
			return Broken
		}
		g.ended = true
		refuse(g.w, g.w.Header().Get("Request-Id") != "", http.StatusInternalServerError, "", "the model failed", "")
		return Broken
	}
	body := render(nil)
	h := g.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	g.begun()
	if _, err := g.w.Write(body); err != nil || g.control.Flush() != nil || g.ctx.Err() != nil {
		return Left
	}
	_, _, visible := g.plan.generated(last)
	g.record.written.Store(visible)
	return Finished
}

// stream sends pieces when they are there. Those that are due at once are one
// write.
func (g *generation) stream(f form) Outcome {
	last, early := g.stopsAt()
	if !g.pace.wait(g.ctx, 0) {
		return g.left(0)
	}
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	h := g.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	g.begun()
	out := f.begin((*buffer)[:0])
	for at := int64(0); at < last; {
		next := min(at+g.plan.chunk, last)
		if at < g.plan.stallAfter {
			next = min(next, g.plan.stallAfter) // what was there before is not held back
		}
		if len(out) > 0 && (len(out) >= enough || g.pace.early(next)) {
			if !g.flush(out, at) {
				*buffer = out
				return g.left(at)
			}
			out = out[:0]
		}
		if !g.pace.wait(g.ctx, next) {
			*buffer = out
			return g.left(at)
		}
		out = g.pieces(out, f, at, next)
		g.made(next)
		at = next
	}
	switch {
	case early && g.plan.errorAfter <= g.plan.breakAfter:
		out, g.ended = f.broken(out), true
	case !early:
		out = f.end(out)
	}
	flushed := g.flush(out, last)
	*buffer = out
	switch {
	case !flushed:
		return Left
	case early:
		return Broken
	}
	return Finished
}

// pieces appends tokens [from, to) of each choice.
func (g *generation) pieces(out []byte, f form, from, to int64) []byte {
	sum, thought, _ := g.plan.generated(to)
	so := progress{sum, thought}
	for i := range g.plan.shown {
		start, end := from, min(to, g.plan.outputs[i])
		if !g.plan.thinksAloud {
			start = max(start, g.plan.reasoning[i])
		}
		if start < end {
			out = f.piece(out, i, start, end, so)
		}
	}
	return out
}

// flush sends out, after which each choice has so many tokens on the connection.
func (g *generation) flush(out []byte, each int64) bool {
	if _, err := g.w.Write(out); err != nil || g.control.Flush() != nil {
		return false
	}
	_, _, visible := g.plan.generated(each)
	g.record.written.Store(visible)
	return true
}
