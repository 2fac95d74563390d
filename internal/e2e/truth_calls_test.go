// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/trace"
)

// fate is what happens to a call of the test of truth.
type fate string

const (
	finishes  fate = "finishes"
	fails     fate = "fails"     // the model refuses it
	breaks    fate = "breaks"    // the model breaks it off
	leaves    fate = "leaves"    // its caller does, when the model stands still
	runs      fate = "runs away" // its caller leaves while the model goes on
	drained   fate = "drained"   // likewise, and its proxy lets the model finish
	untold    fate = "untold"    // it ends without a usage block
	doomed    fate = "doomed"    // its proxy is killed when the model stands still
	surprised fate = "surprised" // its proxy is killed while the model goes on
)

// door is how a call is made.
type door string

const (
	chats     door = "chat"         // the usage is in the last chunk, which the caller did not ask for
	running   door = "running chat" // it is in every chunk
	whole     door = "whole chat"   // not streamed
	messaging door = "messages"     // input at the start, output at the end
	tokenIDs  door = "completions"  // a prompt whose tokens are known
)

// modelCall is one call, before it is made.
type modelCall struct {
	label     string
	key       string
	fate      fate
	door      door
	model     string
	input     int64 // tokens, as the model counts
	cached    int64 // of it
	output    int64 // tokens that the model would like to generate
	reasoning int64 // of it
	after     int64 // output after which its fate happens
	status    int   // of one that fails
	stall     bool
	bytes     int64 // of prompt per token
}

// The models: what the proxies learn from the first is not disturbed by the calls
// of the second, which tell other sizes.
const (
	taught = "taught"
	free   = "free"
)

// enough is how many tokens a call has at least that does not end as planned: by
// then the text of the tokens, at the ratio that was taught, is less than they are.
const enough = 20

// planCalls makes n calls of the sizes of the trace, and says what happens to them.
func planCalls(t *testing.T, n int, seed uint64) []*modelCall {
	t.Helper()
	rows, err := trace.Load()
	if err != nil {
		t.Fatal(err)
	}
	users := trace.Users{Seed: seed, Count: 60, Orgs: 6}
	rng := rand.New(rand.NewPCG(seed, 1))
	calls := make([]*modelCall, n)
	for i := range calls {
		row := rows[i*len(rows)/n]
		c := &modelCall{
			label: "call-" + strconv.Itoa(i), key: users.Of(row.Row).Key, fate: finishes, model: free,
			input: max(row.ContextTokens, 1), output: max(row.GeneratedTokens, 1), bytes: 4,
		}
		c.choose(rng)
		calls[i] = c
	}
	return calls
}

// choose draws the fate of a call, and by which door it goes.
func (c *modelCall) choose(rng *rand.Rand) {
	c.door = []door{chats, chats, chats, chats, chats, running, whole, messaging, messaging, tokenIDs}[rng.IntN(10)]
	known := []door{running, messaging, tokenIDs}[rng.IntN(3)] // input and output are, at every moment
	draw, at := rng.IntN(1000), rng.Float64()
	if rng.IntN(4) == 0 && c.door != tokenIDs {
		c.cached = c.input / 2
	}
	if rng.IntN(4) == 0 && (c.door == chats || c.door == whole) {
		c.reasoning = c.output / 3
	}
	c.stall = rng.IntN(100) < 3
	switch {
	case draw < 50:
		c.fate, c.status = fails, []int{429, 500, 503}[draw%3]
	case draw < 70:
		c.breakOff(breaks, known, at)
	case draw < 140:
		c.breakOff(leaves, known, at)
	case draw < 170:
		c.breakOff(runs, known, at)
		c.output += 2000 // it would go on
	case draw < 190 && c.door != whole:
		c.fate, c.cached, c.reasoning = untold, 0, 0
	}
	if c.fate == runs || c.fate == untold {
		c.key = "loose-" + c.key // what these are charged has bounds; others are exact
	}
}

// breakOff lets a call not come to its end.
func (c *modelCall) breakOff(f fate, d door, at float64) {
	c.fate, c.door, c.model, c.cached, c.reasoning, c.stall = f, d, taught, 0, 0, false
	c.bytes = 2 // what is estimated is less than what the model tells
	c.output = max(c.output, enough+1)
	c.after = enough + int64(at*float64(min(c.output, 400)-enough))
}

// planDoomed makes n calls whose proxy is killed.
func planDoomed(n int) []*modelCall {
	calls := make([]*modelCall, n)
	for i := range calls {
		c := &modelCall{
			label: "doomed-" + strconv.Itoa(i), key: fmt.Sprintf("doomed%d/user%d", i%3, i%10),
			fate: doomed, door: tokenIDs, model: taught, input: 100 + int64(i), output: 1_000_000, after: enough + int64(i),
		}
		if i%2 == 1 {
			c.fate, c.key = surprised, "surprised-"+c.key
		}
		calls[i] = c
	}
	return calls
}

// planDrained makes n calls that a proxy lets finish when their callers leave.
func planDrained(n int) []*modelCall {
	calls := make([]*modelCall, n)
	for i := range calls {
		calls[i] = &modelCall{
			label: "drained-" + strconv.Itoa(i), key: fmt.Sprintf("drained%d/user", i%3), fate: drained,
			door: []door{chats, running, messaging, tokenIDs}[i%4], model: free, bytes: 4,
			input: 200 + int64(i), cached: 50, output: 400, after: 1 + int64(i),
		}
	}
	return calls
}

// path and body are the request.
func (c *modelCall) path() string {
	switch c.door {
	case messaging:
		return "/v1/messages"
	case tokenIDs:
		return "/v1/completions"
	}
	return "/v1/chat/completions"
}

func (c *modelCall) body() string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"model":%q,"max_tokens":%d`, c.model, c.output)
	if c.door != whole {
		b.WriteString(`,"stream":true`)
	}
	if c.door == running {
		b.WriteString(`,"stream_options":{"include_usage":true,"continuous_usage_stats":true}`)
	}
	if c.door == tokenIDs {
		b.WriteString(`,"prompt":[7` + strings.Repeat(",7", int(c.input-1)) + `]}`)
		return b.String()
	}
	text := strings.Repeat("x", int(c.bytes*c.input))
	fmt.Fprintf(&b, `,"messages":[{"role":"user","content":%q}]}`, text)
	return b.String()
}

// headers tell the model what to do.
func (c *modelCall) headers() map[string]string {
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	h := map[string]string{
		"X-User": c.key, "X-Mock-Label": c.label, "X-Mock-Seed": "1",
		"X-Mock-Input-Tokens": n(c.input), "X-Mock-Output-Tokens": n(c.output),
		"X-Mock-Cached-Tokens": n(c.cached), "X-Mock-Reasoning-Tokens": n(c.reasoning),
		"X-Mock-Chunk-Tokens": "8",
	}
	if c.after > 0 || c.fate == untold {
		h["X-Mock-Chunk-Tokens"] = "1" // without a usage block, pieces are counted
	}
	if c.stall {
		h["X-Mock-Stall-After"], h["X-Mock-Stall"] = n(c.output/2), "300ms"
	}
	switch c.fate {
	case fails:
		h["X-Mock-Fail"] = strconv.Itoa(c.status)
	case breaks:
		h["X-Mock-Disconnect-After"] = n(c.after)
	case leaves, doomed:
		h["X-Mock-Stall-After"], h["X-Mock-Stall"] = n(c.after), "forever"
	case runs, drained:
		h["X-Mock-Speed"] = "1000"
	case surprised:
		h["X-Mock-Speed"] = "50"
	case untold:
		h["X-Mock-Usage"] = "none"
	}
	return h
}
