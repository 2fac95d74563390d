// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench"
)

// LLM says which calls are reserved and settled, and how they run. The zero value
// was not said; a workload then has checks only, and a replay LLM calls only.
type LLM struct {
	said    bool
	share   share
	ttft    times // to the first token
	speed   span  // tokens per second after it
	reports int64 // per second
	most    maxOutput
}

// maxOutput is the habit of callers when they say max_tokens: a number, or one of
// those below.
type maxOutput int64

const (
	nextPower maxOutput = -iota - 1
	exactly
)

const (
	llmHint    = "write a share such as 30%, or 30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2"
	maxTTFT    = time.Hour
	maxSpeed   = 1_000_000
	maxReports = 1_000
)

// ParseLLM reads a share such as 30%, with or without settings:
// 30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2 has all and their defaults.
func ParseLLM(text string) (LLM, error) {
	if text == "" {
		return LLM{}, nil
	}
	l := defaultLLM(0)
	if err := l.parse(text); err != nil {
		return LLM{}, in("llm", text, llmHint, err)
	}
	if l.share == 0 {
		return defaultLLM(0), nil
	}
	return l, nil
}

func defaultLLM(s share) LLM {
	return LLM{
		said: true, share: s,
		ttft:  times{200 * time.Millisecond, time.Second},
		speed: span{40, 100}, reports: 1, most: nextPower,
	}
}

func (l *LLM) parse(text string) (err error) {
	first, settings, more := strings.Cut(text, ":")
	if l.share, err = parseShare(first); err != nil || !more {
		return err
	}
	seen := map[string]bool{}
	for item := range strings.SplitSeq(settings, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok {
			return fmt.Errorf("%s is not a setting such as speed=40-100", quote(item))
		}
		if seen[name] {
			return fmt.Errorf("%s is there twice", name)
		}
		seen[name] = true
		if err := l.set(name, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (l *LLM) set(name, value string) (err error) {
	switch name {
	case "ttft":
		l.ttft, err = parseTimes(value, maxTTFT)
	case "speed":
		l.speed, err = parseSpan(value, 1, maxSpeed)
	case "reports":
		l.reports, err = parseNumber(value, 0, maxReports)
	case "max":
		l.most, err = parseMaxOutput(value)
	default:
		err = errors.New("no setting is called so; there are ttft, speed, reports and max")
	}
	return err
}

func parseMaxOutput(text string) (maxOutput, error) {
	switch text {
	case "pow2":
		return nextPower, nil
	case "exact":
		return exactly, nil
	}
	n, err := parseNumber(text, 1, maxTokens)
	if err != nil {
		return 0, fmt.Errorf("must be pow2, exact or a number: %w", err)
	}
	return maxOutput(n), nil
}

// String returns the canonical text, with all settings.
func (l LLM) String() string {
	switch {
	case !l.said:
		return ""
	case l.share == 0:
		return l.share.String()
	}
	return fmt.Sprintf("%s:ttft=%s,speed=%s,reports=%s,max=%s", l.share, l.ttft, l.speed, number(l.reports), l.most)
}

func (m maxOutput) String() string {
	switch m {
	case nextPower:
		return "pow2"
	case exactly:
		return "exact"
	default:
		return number(int64(m))
	}
}

// MarshalText returns the canonical text.
func (l LLM) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is [ParseLLM].
func (l *LLM) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLLM(string(text))
	return err
}

// runner makes LLM calls of calls.
type runner struct {
	random random
	llm    LLM
}

// shape makes an LLM call of c, or leaves it a check. It draws as many numbers
// either way, so that a larger share keeps the LLM calls of a smaller one.
func (r *runner) shape(c *bench.Call) {
	llm := r.random.hit(r.llm.share)
	ttft, speed := r.llm.ttft.draw(&r.random), r.llm.speed.draw(&r.random)
	if !llm {
		return
	}
	c.LLM = true
	c.OutputTokens, c.MaxOutputTokens = r.llm.most.of(c.OutputTokens)
	c.Duration = r.llm.hold(ttft, speed, c.OutputTokens)
	c.ProgressReports = int(c.Duration.Milliseconds() * r.llm.reports / 1000)
}

func (l *LLM) hold(ttft time.Duration, speed, output int64) time.Duration {
	return ttft + time.Duration(output*int64(time.Second)/speed)
}

// of returns what a call with that output reserves, and what it then generates.
func (m maxOutput) of(output int64) (generated, most int64) {
	switch m {
	case nextPower:
		return output, 1 << bits.Len64(uint64(max(output, 1)-1))
	case exactly:
		return output, max(output, 1)
	default:
		return min(output, int64(m)), int64(m)
	}
}
