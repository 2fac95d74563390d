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

// LLM is the share of LLM calls and how they run. The zero value means the default:
// checks only, or LLM calls only in a replay.
type LLM struct {
	given     bool
	share     share
	ttft      durationRange // to the first token
	speed     intRange      // tokens per second after it
	reports   int64         // per second
	maxOutput maxOutput
}

// maxOutput is how callers choose max_tokens: a fixed number, or one of the constants
// below.
type maxOutput int64

const (
	nextPowerOf2 maxOutput = -iota - 1
	exactOutput
)

const (
	llmHint    = "write a share such as 30%, or 30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2"
	maxTTFT    = time.Hour
	maxSpeed   = 1_000_000
	maxReports = 1_000
)

// ParseLLM parses a share such as 30%, optionally with settings.
// 30%:ttft=200ms-1s,speed=40-100,reports=1,max=pow2 has all of them with their defaults.
func ParseLLM(text string) (LLM, error) {
	if text == "" {
		return LLM{}, nil
	}
	l := defaultLLM(0)
	if err := l.parse(text); err != nil {
		return LLM{}, inPart("llm", text, llmHint, err)
	}
	if l.share == 0 {
		return defaultLLM(0), nil
	}
	return l, nil
}

func defaultLLM(s share) LLM {
	return LLM{
		given: true, share: s,
		ttft:  durationRange{200 * time.Millisecond, time.Second},
		speed: intRange{40, 100}, reports: 1, maxOutput: nextPowerOf2,
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
			return fmt.Errorf("%s must be a setting such as speed=40-100", quote(item))
		}
		if seen[name] {
			return fmt.Errorf("%s must not be given twice", name)
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
		l.ttft, err = parseDurationRange(value, maxTTFT)
	case "speed":
		l.speed, err = parseIntRange(value, 1, maxSpeed)
	case "reports":
		l.reports, err = parseNumber(value, 0, maxReports)
	case "max":
		l.maxOutput, err = parseMaxOutput(value)
	default:
		err = errors.New("unknown setting; the settings are ttft, speed, reports and max")
	}
	return err
}

func parseMaxOutput(text string) (maxOutput, error) {
	switch text {
	case "pow2":
		return nextPowerOf2, nil
	case "exact":
		return exactOutput, nil
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
	case !l.given:
		return ""
	case l.share == 0:
		return l.share.String()
	}
	return fmt.Sprintf("%s:ttft=%s,speed=%s,reports=%s,max=%s", l.share, l.ttft, l.speed, formatNumber(l.reports), l.maxOutput)
}

func (m maxOutput) String() string {
	switch m {
	case nextPowerOf2:
		return "pow2"
	case exactOutput:
		return "exact"
	default:
		return formatNumber(int64(m))
	}
}

// MarshalText returns the canonical text.
func (l LLM) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText parses text like [ParseLLM].
func (l *LLM) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLLM(string(text))
	return err
}

// llmShaper turns calls into LLM calls.
type llmShaper struct {
	random random
	llm    LLM
}

// shape turns c into an LLM call, or leaves it a check. It draws equally many numbers
// either way, so that a larger share includes the LLM calls of a smaller one.
func (r *llmShaper) shape(c *bench.Call) {
	llm := r.random.chance(r.llm.share)
	ttft, speed := r.llm.ttft.draw(&r.random), r.llm.speed.draw(&r.random)
	if !llm {
		return
	}
	c.LLM = true
	c.OutputTokens, c.MaxOutputTokens = r.llm.maxOutput.apply(c.OutputTokens)
	c.Duration = r.llm.duration(ttft, speed, c.OutputTokens)
	c.ProgressReports = int(c.Duration.Milliseconds() * r.llm.reports / 1000)
}

func (l *LLM) duration(ttft time.Duration, speed, output int64) time.Duration {
	return ttft + time.Duration(output*int64(time.Second)/speed)
}

// apply returns how many tokens a call with that output generates, and how many it
// reserves.
func (m maxOutput) apply(output int64) (generated, reserved int64) {
	switch m {
	case nextPowerOf2:
		return output, 1 << bits.Len64(uint64(max(output, 1)-1))
	case exactOutput:
		return output, max(output, 1)
	default:
		return min(output, int64(m)), int64(m)
	}
}
