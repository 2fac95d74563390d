// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/bucketring/bucketring/limiter"
)

// TestScenarios plays the scenarios in testdata, which define limits and make calls at
// given times. The recorded output repeats each line with its decision and what remains
// of each limit, negative in debt. A token costs 1 millionth of a dollar for input and
// 2 for output. Re-record with go test -run Scenarios -rewrite, and only commit a
// changed decision if you understand why it changed.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "story" {
				d.Fatalf(t, "unknown command %q, want story", d.Cmd)
			}
			s := &story{t: t, node: newNode(t, limiter.Options{}), start: noon, key: "acme/alice", tiers: map[string]map[int][]limiter.Limit{}}
			var out strings.Builder
			for line := range strings.SplitSeq(d.Input, "\n") {
				answer := s.play(strings.Fields(line))
				if answer != "" {
					line = fmt.Sprintf("%-44s -> %s", line, answer)
				}
				fmt.Fprintln(&out, line)
			}
			return out.String()
		})
	})
}

// A story is the state of a scenario.
type story struct {
	*node
	t     *testing.T
	start limiter.Time
	key   string
	tier  string
	tiers map[string]map[int][]limiter.Limit // by tier and level
}

// play runs one line and returns the decision, if there is one.
func (s *story) play(words []string) string {
	if len(words) == 0 || words[0] == "#" {
		return ""
	}
	switch words[0] {
	case "tier":
		s.tier = words[1]
	case "limit":
		s.limit(words[1], words[2], options(words[3:]))
	case "clock":
		when, err := time.ParseInLocation("2006-01-02 15:04:05", words[1]+" "+words[2], zone(words[3]))
		s.must(err)
		s.start.Wall = when.UnixNano()
	case "at":
		after, err := time.ParseDuration(words[1])
		s.must(err)
		return s.call(s.start.Add(after), words[2], words[3:])
	default:
		s.t.Fatalf("unknown word %q", words[0])
	}
	return ""
}

func (s *story) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// options splits words of the form name=value. A bare word is its own value.
func options(words []string) map[string]string {
	m := map[string]string{}
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		m[name] = value
	}
	return m
}

func (s *story) number(text string) int64 {
	n, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 64)
	s.must(err)
	return n
}

// limit reads "tokens 10_000/1m burst=2_000 level=1 degrade".
func (s *story) limit(name, amount string, o map[string]string) {
	l := limiter.Limit{Name: name, Dimension: limiter.Dimension(name), Algorithm: limiter.TokenBucket}
	if d, ok := o["dimension"]; ok {
		l.Dimension = limiter.Dimension(d)
	}
	units, window, _ := strings.Cut(amount, "/")
	l.Amount = s.number(units)
	calendar := map[string]limiter.Calendar{"hour": limiter.Hour, "day": limiter.Day, "week": limiter.Week, "month": limiter.Month, "year": limiter.Year}
	switch unit, ok := calendar[window]; {
	case l.Dimension == limiter.Concurrent:
		l.Algorithm = limiter.Concurrency
	case ok:
		l.Algorithm, l.Calendar = limiter.FixedWindow, unit
	default:
		var err error
		l.Window, err = time.ParseDuration(window)
		s.must(err)
	}
	if _, ok := o["sliding"]; ok {
		l.Algorithm = limiter.SlidingWindow
	}
	if b, ok := o["burst"]; ok {
		l.Burst = s.number(b)
	}
	if z, ok := o["zone"]; ok {
		l.Zone = zone(z)
	}
	_, l.Degrade = o["degrade"]
	_, l.Shadow = o["shadow"]
	_, l.Closed = o["closed"]
	if w, ok := o["whole"]; ok {
		l.FullCapacity = s.number(w)
	}
	level := 2
	if v, ok := o["level"]; ok {
		level = int(s.number(v))
	}
	if s.tiers[s.tier] == nil {
		s.tiers[s.tier] = map[int][]limiter.Limit{}
	}
	s.tiers[s.tier][level] = append(s.tiers[s.tier][level], l)
}

func (s *story) plan(key string) *limiter.Plan {
	of := s.tiers[s.tier]
	var org *limiter.LimitSet
	if len(of[1]) > 0 {
		org = mustSet(s.t, s.catalog, of[1]...)
	}
	return plan(key, org, mustSet(s.t, s.catalog, of[2]...))
}

// call reads "take 200 requests=1", "reserve a in=10 out=500", "settle a out=20".
func (s *story) call(now limiter.Time, verb string, words []string) string {
	if verb == "tier" {
		s.tier = words[0]
		return ""
	}
	first := ""
	if len(words) > 0 {
		first, words = words[0], words[1:]
	}
	o := options(words)
	get := func(name string, absent int64) int64 {
		if v, ok := o[name]; ok {
			return s.number(v)
		}
		return absent
	}
	key := s.key
	if k, ok := o["key"]; ok {
		key = k
	}
	r := &limiter.Request{Key: key, Plan: s.plan(key), Requests: get("requests", 1), InputTokens: get("in", 0), OutputTokens: get("out", 0)}
	u := &limiter.Usage{Key: key, ID: first, InputTokens: get("in", -1), CachedInputTokens: get("cached", -1), OutputTokens: get("out", -1)}
	_, r.Force = o["force"]
	var d limiter.Decision
	var err error
	switch verb {
	case "take":
		r.InputTokens, r.ID = s.number(first), o["id"]
		err = s.Check(now, r, &d)
	case "reserve":
		r.ID, r.MinOutputTokens, r.Choices = first, get("min", 0), get("n", 0)
		r.TTL = time.Duration(get("ttl", 0)) * time.Second
		err = s.Reserve(now, r, &d)
	case "progress":
		err = s.Settle(now, u, &d)
	case "settle":
		u.Final = true
		err = s.Settle(now, u, &d)
	case "cancel":
		err = s.Cancel(now, key, first, &d)
	case "look":
		s.Peek(now, r, &d)
	default:
		s.t.Fatalf("unknown call %q", verb)
	}
	if err != nil {
		return err.Error()
	}
	return s.answer(verb, now, d)
}

func (s *story) answer(verb string, now limiter.Time, d limiter.Decision) string {
	var out []string
	switch {
	case verb == "look":
	case verb != "take" && verb != "reserve":
		out = append(out, d.Status.String())
	default:
		out = append(out, d.Outcome.String())
	}
	if d.Replayed {
		out = append(out, "replayed")
	}
	if d.Outcome == limiter.Degraded {
		out = append(out, fmt.Sprint("granted=", d.GrantedOutputTokens))
	}
	if d.Outcome == limiter.Denied {
		if d.Reason != limiter.LimitExceeded {
			out = append(out, d.Reason.String())
		}
		if d.Binding >= 0 {
			out = append(out, "by="+d.Limits[d.Binding].Name)
		}
		if d.RetryAfter > 0 {
			out = append(out, "retry="+d.RetryAfter.String())
		}
	}
	for i, l := range d.Limits {
		name := l.Name
		if l.Scope != d.Limits[len(d.Limits)-1].Scope {
			name = l.Scope + ":" + name
		}
		text := fmt.Sprintf("%s=%d", name, l.Remaining-l.Debt)
		if l.Shadow && l.Exceeded {
			text += "(exceeded)"
		}
		if verb == "look" && l.ResetAt != 0 && i >= 0 {
			text += "@" + time.Duration(l.ResetAt-now.Wall).String()
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}
