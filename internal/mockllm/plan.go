// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// never is a number of tokens that no choice reaches.
const never = math.MaxInt64

// forever is a stall until the caller disconnects.
const forever = time.Duration(math.MaxInt64)

// plan decides in advance everything that happens in one call.
type plan struct {
	fail       int // error status; 0: none
	retryAfter string

	ttft  time.Duration
	speed float64 // tokens per second of each choice; 0: no delay
	chunk int64

	input, cached, cacheWrite int64
	unbounded                 []int64 // output of each choice without a bound
	outputs                   []int64 // with it
	reasoning                 []int64 // the first tokens of outputs
	shown                     int     // number of choices in the response
	showsReasoning            bool    // the response includes the reasoning

	stallAfter, disconnectAfter, errorAfter int64 // tokens of each choice, or never
	stall                                   time.Duration

	usage   usageMode
	dialect Dialect
	seed    uint64
}

// usageMode is the usage that a response reports, as in X-Mock-Usage.
type usageMode string

const (
	usageTrue usageMode = "true"
	usageNone usageMode = "none"
)

// wrongUsages are the kinds of wrong usage.
var wrongUsages = []usageMode{"double", "zero", "negative", "overflow", "parts", "text"}

// longest returns the length of the longest choice.
func (p *plan) longest() int64 { return slices.Max(p.outputs) }

// truncated reports whether a bound has shortened a choice.
func (p *plan) truncated(choice int) bool { return p.outputs[choice] < p.unbounded[choice] }

// generated returns the output of all choices when each has at most each tokens: the
// sum, the part of it that is reasoning, and the part that is in the response.
func (p *plan) generated(each int64) (sum, thought, visible int64) {
	for i, n := range p.outputs {
		n = min(n, each)
		t := min(n, p.reasoning[i])
		sum += n
		thought += t
		switch {
		case i >= p.shown:
		case p.showsReasoning:
			visible += n
		default:
			visible += n - t
		}
	}
	return sum, thought, visible
}

// newPlan plans a call. It draws the same random numbers whatever the headers are, so
// that a header changes only what it names.
func (o *Options) newPlan(h http.Header, number int64, e endpoint, r *request) (*plan, *invalid) {
	m := headers{h: h}
	seed := uint64(m.number("Seed", number, math.MaxInt64))
	rng := rand.New(rand.NewPCG(o.Seed, seed))
	p := &plan{ttft: o.TTFT, speed: o.Speed, chunk: o.ChunkTokens, seed: rng.Uint64(), stallAfter: never, disconnectAfter: never, errorAfter: never, usage: usageTrue}

	failure, position, reporting, wrongUsage := rng.Float64(), rng.Float64(), rng.Float64(), wrongUsages[rng.IntN(len(wrongUsages))]
	stalls, stallPosition := rng.Float64() < o.StallShare, rng.Float64()
	p.drawFailure(o, failure)
	switch {
	case reporting < o.NoUsageShare:
		p.usage = usageNone
	case reporting < o.NoUsageShare+o.WrongUsageShare:
		p.usage = wrongUsage
	}

	p.input = m.number("Input-Tokens", r.input(o.BytesPerToken), maxLength)
	p.cached = min(p.input, m.number("Cached-Tokens", int64(float64(p.input)*o.CachedShare), maxLength))
	p.cacheWrite = min(p.input-p.cached, m.number("Cache-Write-Tokens", 0, maxLength))
	p.drawLengths(o, &m, rng, e, r)

	if stalls {
		p.stallAfter, p.stall = int64(stallPosition*float64(p.longest())), o.Stall
	}
	if p.disconnectAfter == 0 {
		p.disconnectAfter = int64(position * float64(p.longest()))
	}
	p.dialect = o.Dialects[rng.IntN(len(o.Dialects))]
	p.applyHeaders(&m)
	m.checkNames()
	if m.err != nil {
		return nil, m.err
	}
	return p, nil
}

// drawFailure chooses between an error status, a disconnect, and neither, by a random
// number from 0 to 1.
func (p *plan) drawFailure(o *Options, draw float64) {
	statuses := make([]int, 0, len(o.FailShares))
	for status := range o.FailShares {
		statuses = append(statuses, status)
	}
	slices.Sort(statuses)
	for _, status := range statuses {
		if draw < o.FailShares[status] {
			p.fail = status
			return
		}
		draw -= o.FailShares[status]
	}
	if draw < o.DisconnectShare {
		p.disconnectAfter = 0 // newPlan chooses the position when the length is known
	}
}

// drawLengths chooses the length of each choice.
func (p *plan) drawLengths(o *Options, m *headers, rng *rand.Rand, e endpoint, r *request) {
	count, bound := int(r.choices(e)), r.maxTokens(e)
	p.shown, p.showsReasoning = int(r.shown(e)), e == messages
	if e == embeddings {
		p.unbounded, p.outputs, p.reasoning = make([]int64, 1), make([]int64, 1), make([]int64, 1)
		return
	}
	for range count {
		n := m.number("Output-Tokens", o.Output.draw(rng), maxLength)
		thought := m.number("Reasoning-Tokens", int64(float64(n)*o.ReasoningShare), maxLength)
		p.unbounded = append(p.unbounded, n)
		if bound >= 0 {
			n = min(n, bound)
		}
		if e == completions || e == messages && (r.Thinking == nil || r.Thinking.Type != "enabled") {
			thought = 0 // these endpoints have no reasoning
		}
		p.outputs = append(p.outputs, n)
		p.reasoning = append(p.reasoning, min(thought, n))
	}
}

// applyHeaders applies the headers that do not concern lengths or random choices.
func (p *plan) applyHeaders(m *headers) {
	p.ttft = m.duration("TTFT", p.ttft)
	p.speed = m.speed(p.speed)
	if p.chunk = m.number("Chunk-Tokens", p.chunk, maxLength); p.chunk == 0 {
		m.fail("Chunk-Tokens", "must be at least 1")
	}
	if p.fail = int(m.number("Fail", int64(p.fail), 599)); p.fail != 0 && p.fail < 400 {
		m.fail("Fail", "must be a status from 400 to 599")
	}
	p.retryAfter = m.get("Retry-After")
	p.stallAfter = m.number("Stall-After", p.stallAfter, maxLength)
	if m.get("Stall-After") != "" && p.stall == 0 {
		p.stall = time.Second
	}
	p.stall = m.duration("Stall", p.stall)
	p.disconnectAfter = m.number("Disconnect-After", p.disconnectAfter, maxLength)
	p.errorAfter = m.number("Error-After", p.errorAfter, maxLength)
	if u := usageMode(m.get("Usage")); u != "" {
		if u != usageTrue && u != usageNone && !slices.Contains(wrongUsages, u) {
			m.fail("Usage", fmt.Sprintf("must be true, none or one of %v", wrongUsages))
		}
		p.usage = u
	}
	if d := Dialect(m.get("Dialect")); d != "" {
		if !slices.Contains(dialects, d) {
			m.fail("Dialect", fmt.Sprintf("must be one of %v", dialects))
		}
		p.dialect = d
	}
}

// headers parses X-Mock-* headers and keeps the first error.
type headers struct {
	h   http.Header
	err *invalid
}

// headerNames are the known names after X-Mock-.
var headerNames = []string{
	"Seed", "Label", "Input-Tokens", "Cached-Tokens", "Cache-Write-Tokens", "Output-Tokens", "Reasoning-Tokens",
	"TTFT", "Speed", "Chunk-Tokens", "Fail", "Retry-After", "Stall-After", "Stall", "Disconnect-After", "Error-After", "Usage", "Dialect",
}

// checkNames rejects unknown X-Mock-* headers, so that a misspelt one is noticed.
func (m *headers) checkNames() {
	for name := range m.h {
		rest, ours := strings.CutPrefix(name, "X-Mock-")
		if ours && !slices.ContainsFunc(headerNames, func(known string) bool { return strings.EqualFold(known, rest) }) {
			m.fail(rest, fmt.Sprintf("is unknown: must be one of %s", strings.Join(headerNames, ", ")))
		}
	}
}

func (m *headers) get(name string) string { return m.h.Get("X-Mock-" + name) }

func (m *headers) fail(name, problem string) {
	if m.err == nil {
		m.err = &invalid{"X-Mock-" + name, fmt.Sprintf("%s, got %q", problem, m.get(name))}
	}
}

func (m *headers) number(name string, fallback, limit int64) int64 {
	text := m.get(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > limit {
		m.fail(name, fmt.Sprintf("must be a whole number from 0 to %d", limit))
		return fallback
	}
	return n
}

func (m *headers) duration(name string, fallback time.Duration) time.Duration {
	text := m.get(name)
	if text == "" {
		return fallback
	}
	if name == "Stall" && strings.EqualFold(text, "forever") {
		return forever
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		m.fail(name, "must be a duration such as 80ms")
		return fallback
	}
	return d
}

func (m *headers) speed(fallback float64) float64 {
	text := m.get("Speed")
	if text == "" {
		return fallback
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0) || math.IsInf(v, 0) {
		m.fail("Speed", "must be tokens per second, or 0")
		return fallback
	}
	return v
}
