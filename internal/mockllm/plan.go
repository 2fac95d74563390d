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

// forever is a stall that only the caller ends.
const forever = time.Duration(math.MaxInt64)

// plan is what will happen in one call, decided before it does.
type plan struct {
	fail       int // status of the refusal; 0: none
	retryAfter string

	ttft  time.Duration
	speed float64 // tokens per second of each choice; 0: at once
	chunk int64

	input, cached, cacheWrite int64
	wanted                    []int64 // output of each choice without a bound
	outputs                   []int64 // with it
	reasoning                 []int64 // of it; the first ones
	shown                     int     // the first choices are in the answer
	thinksAloud               bool    // the reasoning is shown, too

	stallAfter, breakAfter, errorAfter int64 // tokens of each choice; never
	stall                              time.Duration

	usage usage
	seed  uint64
}

// usage is what the answer says about its cost.
type usage string

const (
	honest usage = "true"
	none   usage = "none"
)

// lies are the usage blocks that are wrong, each in its own way.
var lies = []usage{"double", "zero", "negative", "overflow", "parts", "text"}

// longest is the length of the longest choice.
func (p *plan) longest() int64 { return slices.Max(p.outputs) }

// cut reports whether a bound cut a choice.
func (p *plan) cut(choice int) bool { return p.outputs[choice] < p.wanted[choice] }

// generated is the output of all choices when each has at most so many tokens,
// and thought is how much of it is reasoning; visible is what the answer
// shows of it.
func (p *plan) generated(each int64) (sum, thought, visible int64) {
	for i, n := range p.outputs {
		n = min(n, each)
		t := min(n, p.reasoning[i])
		sum += n
		thought += t
		switch {
		case i >= p.shown:
		case p.thinksAloud:
			visible += n
		default:
			visible += n - t
		}
	}
	return sum, thought, visible
}

// planOf decides what happens in a call. The draws are the same whatever the
// headers say, so that a header changes nothing but what it is about.
func (o *Options) planOf(h http.Header, number int64, e endpoint, r *request) (*plan, *invalid) {
	m := mockHeaders{h: h}
	seed := uint64(m.number("Seed", number, math.MaxInt64))
	rng := rand.New(rand.NewPCG(o.Seed, seed))
	p := &plan{ttft: o.TTFT, speed: o.Speed, chunk: o.ChunkTokens, seed: rng.Uint64(), stallAfter: never, breakAfter: never, errorAfter: never, usage: honest}

	fate, where, report, lie := rng.Float64(), rng.Float64(), rng.Float64(), lies[rng.IntN(len(lies))]
	stalls, stallWhere := rng.Float64() < o.StallShare, rng.Float64()
	p.outcome(o, fate)
	switch {
	case report < o.NoUsage:
		p.usage = none
	case report < o.NoUsage+o.Lie:
		p.usage = lie
	}

	p.input = m.number("Input-Tokens", r.input(o.BytesPerToken), maxLength)
	p.cached = min(p.input, m.number("Cached-Tokens", int64(float64(p.input)*o.Cached), maxLength))
	p.cacheWrite = min(p.input-p.cached, m.number("Cache-Write-Tokens", 0, maxLength))
	p.lengths(o, &m, rng, e, r)

	if stalls {
		p.stallAfter, p.stall = int64(stallWhere*float64(p.longest())), o.Stall
	}
	if p.breakAfter == 0 {
		p.breakAfter = int64(where * float64(p.longest()))
	}
	p.told(&m)
	m.unknown()
	if m.err != nil {
		return nil, m.err
	}
	return p, nil
}

// outcome lets chance choose between failing, breaking off, and neither.
func (p *plan) outcome(o *Options, fate float64) {
	statuses := make([]int, 0, len(o.Fail))
	for status := range o.Fail {
		statuses = append(statuses, status)
	}
	slices.Sort(statuses)
	for _, status := range statuses {
		if fate < o.Fail[status] {
			p.fail = status
			return
		}
		fate -= o.Fail[status]
	}
	if fate < o.Disconnect {
		p.breakAfter = 0 // where, is decided when the length is known
	}
}

// lengths decides how long each choice is.
func (p *plan) lengths(o *Options, m *mockHeaders, rng *rand.Rand, e endpoint, r *request) {
	count, bound := int(r.choices(e)), r.maxEach(e)
	p.shown, p.thinksAloud = int(r.shown(e)), e == messages
	if e == embeddings {
		p.wanted, p.outputs, p.reasoning = make([]int64, 1), make([]int64, 1), make([]int64, 1)
		return
	}
	for range count {
		n := m.number("Output-Tokens", o.Output.draw(rng), maxLength)
		thought := m.number("Reasoning-Tokens", int64(float64(n)*o.Reasoning), maxLength)
		p.wanted = append(p.wanted, n)
		if bound >= 0 {
			n = min(n, bound)
		}
		if e == completions || e == messages && (r.Thinking == nil || r.Thinking.Type != "enabled") {
			thought = 0 // these have none
		}
		p.outputs = append(p.outputs, n)
		p.reasoning = append(p.reasoning, min(thought, n))
	}
}

// told reads the headers that are about neither lengths nor chance.
func (p *plan) told(m *mockHeaders) {
	p.ttft = m.duration("TTFT", p.ttft)
	p.speed = m.speed(p.speed)
	if p.chunk = m.number("Chunk-Tokens", p.chunk, maxLength); p.chunk == 0 {
		m.wrong("Chunk-Tokens", "must be at least 1")
	}
	if p.fail = int(m.number("Fail", int64(p.fail), 599)); p.fail != 0 && p.fail < 400 {
		m.wrong("Fail", "must be a status from 400 to 599")
	}
	p.retryAfter = m.get("Retry-After")
	p.stallAfter = m.number("Stall-After", p.stallAfter, maxLength)
	if m.get("Stall-After") != "" && p.stall == 0 {
		p.stall = time.Second
	}
	p.stall = m.duration("Stall", p.stall)
	p.breakAfter = m.number("Disconnect-After", p.breakAfter, maxLength)
	p.errorAfter = m.number("Error-After", p.errorAfter, maxLength)
	if u := usage(m.get("Usage")); u != "" {
		if u != honest && u != none && !slices.Contains(lies, u) {
			m.wrong("Usage", fmt.Sprintf("must be true, none or one of %v", lies))
		}
		p.usage = u
	}
}

// mockHeaders reads X-Mock- headers, and keeps the first mistake.
type mockHeaders struct {
	h   http.Header
	err *invalid
}

// headerNames are all that follow X-Mock-.
var headerNames = []string{
	"Seed", "Label", "Input-Tokens", "Cached-Tokens", "Cache-Write-Tokens", "Output-Tokens", "Reasoning-Tokens",
	"TTFT", "Speed", "Chunk-Tokens", "Fail", "Retry-After", "Stall-After", "Stall", "Disconnect-After", "Error-After", "Usage",
}

// unknown finds a header that is misspelt: it would change nothing, and nobody
// would notice.
func (m *mockHeaders) unknown() {
	for name := range m.h {
		rest, ours := strings.CutPrefix(name, "X-Mock-")
		if ours && !slices.ContainsFunc(headerNames, func(known string) bool { return strings.EqualFold(known, rest) }) {
			m.wrong(rest, fmt.Sprintf("is not known; there are %s", strings.Join(headerNames, ", ")))
		}
	}
}

func (m *mockHeaders) get(name string) string { return m.h.Get("X-Mock-" + name) }

func (m *mockHeaders) wrong(name, problem string) {
	if m.err == nil {
		m.err = &invalid{"X-Mock-" + name, fmt.Sprintf("%s, got %q", problem, m.get(name))}
	}
}

func (m *mockHeaders) number(name string, otherwise, most int64) int64 {
	text := m.get(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > most {
		m.wrong(name, fmt.Sprintf("must be a whole number from 0 to %d", most))
		return otherwise
	}
	return n
}

func (m *mockHeaders) duration(name string, otherwise time.Duration) time.Duration {
	text := m.get(name)
	if text == "" {
		return otherwise
	}
	if name == "Stall" && strings.EqualFold(text, "forever") {
		return forever
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		m.wrong(name, "must be a duration such as 80ms")
		return otherwise
	}
	return d
}

func (m *mockHeaders) speed(otherwise float64) float64 {
	text := m.get("Speed")
	if text == "" {
		return otherwise
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0) || math.IsInf(v, 0) {
		m.wrong("Speed", "must be tokens per second, or 0")
		return otherwise
	}
	return v
}
