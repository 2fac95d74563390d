// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/trace"
)

// fate is how a call of TestChargesAreTheTruth ends.
type fate string

const (
	finishes      fate = "finishes"
	fails         fate = "fails"                             // the model returns an error
	breaks        fate = "breaks"                            // the model closes the connection
	leaves        fate = "is left while the model stalls"    // by its caller
	runs          fate = "is left while the model generates" // by its caller
	drained       fate = "is drained"                        // its caller leaves, and its proxy lets the model finish
	noUsage       fate = "ends without usage"                // the model sends no usage block
	killedStalled fate = "is killed while the model stalls"  // with its proxy
	killedRunning fate = "is killed while the model generates"
)

// endpoint is the kind of request of a call.
type endpoint string

const (
	chats     endpoint = "chat"         // the usage is in the last chunk, which the caller did not request
	running   endpoint = "running chat" // the usage is in every chunk
	whole     endpoint = "whole chat"   // not streamed
	messaging endpoint = "messages"     // input usage at the start, output usage at the end
	tokenIDs  endpoint = "completions"  // a prompt of token ids
)

// modelCall describes one call.
type modelCall struct {
	label     string
	key       string
	fate      fate
	endpoint  endpoint
	model     string
	input     int64 // tokens, as counted by the model
	cached    int64 // tokens of input
	written   int64 // tokens of input, to a cache
	output    int64 // tokens that the model generates unless it is interrupted
	reasoning int64 // tokens of output
	after     int64 // tokens of output before the call is interrupted
	status    int   // of a call that fails
	stall     bool
	bytes     int64 // of the prompt per token
	dialect   mockllm.Dialect
}

// Names of models. The proxies calibrate their estimates per model, and the calls of
// otherModel have another ratio of bytes to tokens.
const (
	calibratedModel = "calibrated"
	otherModel      = "other"
)

// dialects are the ways in which the model reports usage.
var dialects = []mockllm.Dialect{mockllm.Plain, mockllm.Beside, mockllm.Relay}

// minInterrupted is the least output of an interrupted call. From there on, an
// estimate from its text is below the number of tokens.
const minInterrupted = 20

// planCalls returns n calls with the sizes of the trace and random fates.
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
			label: "call-" + strconv.Itoa(i), key: users.Of(row.Row).Key, fate: finishes, model: otherModel,
			input: max(row.ContextTokens, 1), output: max(row.GeneratedTokens, 1), bytes: 4,
		}
		c.choose(rng)
		calls[i] = c
	}
	return calls
}

// choose sets a random fate and endpoint.
func (c *modelCall) choose(rng *rand.Rand) {
	c.endpoint = []endpoint{chats, chats, chats, chats, chats, running, whole, messaging, messaging, tokenIDs}[rng.IntN(10)]
	known := []endpoint{running, messaging, tokenIDs}[rng.IntN(3)] // endpoints with known usage at every moment
	draw, at := rng.IntN(1000), rng.Float64()
	if rng.IntN(4) == 0 && c.endpoint != tokenIDs {
		c.cached = c.input / 2
	}
	if rng.IntN(4) == 0 && (c.endpoint == chats || c.endpoint == whole) {
		c.reasoning = c.output / 3
	}
	c.stall = rng.IntN(100) < 3
	switch {
	case draw < 50:
		c.fate, c.status = fails, []int{429, 500, 503}[draw%3]
	case draw < 70:
		c.interrupt(breaks, known, at)
	case draw < 140:
		c.interrupt(leaves, known, at)
	case draw < 170:
		c.interrupt(runs, known, at)
		c.output += 2000 // it must not end before the caller leaves
	case draw < 190 && c.endpoint != whole:
		c.fate, c.cached, c.reasoning = noUsage, 0, 0
	}
	c.dialect = dialects[rng.IntN(len(dialects))]
	if rng.IntN(2) == 0 && c.fate == finishes && c.endpoint == messaging {
		c.written = (c.input - c.cached) / 3
	}
	if c.fate == runs || c.fate == noUsage {
		c.key = "inexact-" + c.key // charges with bounds; those of all other keys are exact
	}
}

// interrupt makes a call end early.
func (c *modelCall) interrupt(f fate, d endpoint, at float64) {
	c.fate, c.endpoint, c.model, c.cached, c.reasoning, c.stall = f, d, calibratedModel, 0, 0, false
	c.bytes = 2 // so that an estimate is below the usage of the model
	c.output = max(c.output, minInterrupted+1)
	c.after = minInterrupted + int64(at*float64(min(c.output, 400)-minInterrupted))
}

// planCalibration returns calls that teach a proxy the bytes per token of each root and
// model.
func planCalibration(proxy string, plans ...[]*modelCall) (calls []*modelCall) {
	roots := map[string]bool{}
	for _, c := range slices.Concat(plans...) {
		roots[keypath.Root(c.key)] = true
	}
	for _, root := range slices.Sorted(maps.Keys(roots)) {
		for _, model := range []string{calibratedModel, otherModel} {
			c := &modelCall{label: fmt.Sprintf("calibration-%s-%s-%s", proxy, root, model), key: root + "/calibration", fate: finishes, endpoint: whole, model: model, input: 8192, output: 1, bytes: 4}
			if model == calibratedModel {
				c.bytes = 8 // more than text has, so that estimates from text are low
			}
			calls = append(calls, c)
		}
	}
	return calls
}

// planKilled returns n calls whose proxy is killed.
func planKilled(n int) []*modelCall {
	calls := make([]*modelCall, n)
	for i := range calls {
		c := &modelCall{
			label: "killed-" + strconv.Itoa(i), key: fmt.Sprintf("killed%d/user%d", i%3, i%10),
			fate: killedStalled, endpoint: tokenIDs, model: calibratedModel, input: 100 + int64(i), output: 1_000_000, after: minInterrupted + int64(i),
		}
		if i%2 == 1 {
			c.fate, c.key = killedRunning, "running-"+c.key
		}
		calls[i] = c
	}
	return calls
}

// planDrained returns n calls whose callers leave and whose proxy lets them finish.
func planDrained(n int) []*modelCall {
	calls := make([]*modelCall, n)
	for i := range calls {
		calls[i] = &modelCall{
			label: "drained-" + strconv.Itoa(i), key: fmt.Sprintf("drained%d/user", i%3), fate: drained,
			endpoint: []endpoint{chats, running, messaging, tokenIDs}[i%4], model: otherModel, bytes: 4,
			input: 200 + int64(i), cached: 50, output: 400, after: 1 + int64(i), dialect: dialects[i%3],
		}
	}
	return calls
}

// path returns the path of the request.
func (c *modelCall) path() string {
	switch c.endpoint {
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
	if c.endpoint != whole {
		b.WriteString(`,"stream":true`)
	}
	if c.endpoint == running {
		b.WriteString(`,"stream_options":{"include_usage":true,"continuous_usage_stats":true}`)
	}
	if c.endpoint == tokenIDs {
		b.WriteString(`,"prompt":[7` + strings.Repeat(",7", int(c.input-1)) + `]}`)
		return b.String()
	}
	text := strings.Repeat("x", int(c.bytes*c.input))
	fmt.Fprintf(&b, `,"messages":[{"role":"user","content":%q}]}`, text)
	return b.String()
}

// headers returns the headers that control the mock model.
func (c *modelCall) headers() map[string]string {
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	h := map[string]string{
		"X-User": c.key, "X-Mock-Label": c.label, "X-Mock-Seed": "1",
		"X-Mock-Input-Tokens": n(c.input), "X-Mock-Output-Tokens": n(c.output),
		"X-Mock-Cached-Tokens": n(c.cached), "X-Mock-Reasoning-Tokens": n(c.reasoning),
		"X-Mock-Cache-Write-Tokens": n(c.written), "X-Mock-Chunk-Tokens": "8",
	}
	if c.dialect != "" {
		h["X-Mock-Dialect"] = string(c.dialect)
	}
	if c.after > 0 || c.fate == noUsage {
		h["X-Mock-Chunk-Tokens"] = "1" // without usage, chunks are counted
	}
	if c.stall {
		h["X-Mock-Stall-After"], h["X-Mock-Stall"] = n(c.output/2), "300ms"
	}
	switch c.fate {
	case fails:
		h["X-Mock-Fail"] = strconv.Itoa(c.status)
	case breaks:
		h["X-Mock-Disconnect-After"] = n(c.after)
	case leaves, killedStalled:
		h["X-Mock-Stall-After"], h["X-Mock-Stall"] = n(c.after), "forever"
	case runs, drained:
		h["X-Mock-Speed"] = "1000"
	case killedRunning:
		h["X-Mock-Speed"] = "50"
	case noUsage:
		h["X-Mock-Usage"] = "none"
	}
	return h
}
