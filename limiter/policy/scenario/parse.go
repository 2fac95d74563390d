// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// Parse reads a file of scenarios. The error is a [policy.Problems] with all its
// problems.
func Parse(file string, src []byte) (*Suite, error) {
	p := parser{yamldoc.Reader{Synonyms: synonyms}}
	root, ok := p.r.Open(file, src)
	if !ok {
		return nil, p.r.Err()
	}
	suite := &Suite{File: file}
	for _, item := range p.r.Items(root, "a scenario file") {
		suite.Scenarios = append(suite.Scenarios, p.scenario(item))
	}
	if err := p.r.Err(); err != nil {
		return nil, err
	}
	return suite, nil
}

type parser struct{ r yamldoc.Reader }

// synonyms are keys that people write for others.
var synonyms = map[string]string{
	"output": "output_tokens", "max_tokens": "output_tokens", "max_output_tokens": "output_tokens", "input": "input_tokens",
	"min_output": "min_output_tokens", "cached": "cached_input_tokens", "cost": "costs", "outcome": "want", "expect": "want", "time": "at",
	"ttl_seconds": "ttl", "retry_after_seconds": "retry_after", "granted_output_tokens": "granted",
}

var (
	verbs        = []string{"check", "reserve", "settle", "cancel", "peek"}
	expectations = []string{"want", "by", "scope", "reason", "granted", "retry_after", "remaining", "debt"}
	callKeys     = []string{"key", "tier", "model"}
	// keysOf are the keys that steps with a verb may have besides at, the verb,
	// callKeys and expectations.
	keysOf = map[verb][]string{
		check:   {"id", "requests", "input_tokens", "output_tokens", "costs", "tokens", "service_tier", "priority"},
		reserve: {"id", "requests", "input_tokens", "output_tokens", "costs", "min_output_tokens", "n", "ttl", "service_tier", "priority"},
		settle: {
			"input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens", "images", "searches",
			"costs", "tokens", "service_tier", "rejected", "final",
		},
	}
	stepKeys = allStepKeys()
)

func allStepKeys() []string {
	keys := slices.Concat([]string{"at"}, verbs, callKeys, expectations)
	for _, v := range verbs {
		for _, k := range keysOf[verb(v)] {
			if !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

func (p *parser) scenario(n yamldoc.Node) Scenario {
	_, line, _ := n.Position()
	s := Scenario{Line: line, start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	defaults := step{key: "test"}
	var steps yamldoc.Node
	for _, f := range p.r.Fields(n, "a scenario", []string{"name", "key", "tier", "model", "start", "steps"}) {
		switch f.Name {
		case "name":
			s.Name, _ = p.r.Text(f.Value, "name")
		case "start":
			text, ok := p.r.Text(f.Value, "start")
			start, err := time.Parse(time.RFC3339, text)
			if ok && (err != nil || start.Year() < 1970 || start.Year() > 2100) {
				p.r.Problem(f.Value, "start must be a time such as 2026-03-29T00:00:00Z, until 2100, got %q", text)
			}
			s.start = start
		case "steps":
			steps = f.Value
		default:
			p.call(&defaults, f)
		}
	}
	if !n.IsMapping() {
		return s
	}
	if s.Name == "" {
		p.r.Problem(n, "a scenario needs a name")
	}
	if !steps.Exists() {
		p.r.Problem(n, "a scenario needs steps")
		return s
	}
	items := p.r.Items(steps, "steps")
	if items != nil && len(items) == 0 {
		p.r.Problem(steps, "a scenario needs steps")
	}
	for _, item := range items {
		st, ok := p.step(item, defaults)
		if !ok {
			continue
		}
		if _, given := st.keys["at"]; !given {
			st.at = defaults.at
		} else if st.at < defaults.at {
			p.r.Problem(st.keys["at"], "at must not be before the previous step, which is at %s", defaults.at)
		}
		defaults.at = st.at
		s.steps = append(s.steps, st)
	}
	return s
}

// call reads one of callKeys, which both scenarios and steps may have.
func (p *parser) call(s *step, f yamldoc.Field) {
	text, ok := p.r.Text(f.Value, f.Name)
	if !ok {
		return
	}
	switch f.Name {
	case "key":
		segments := strings.Split(text, "/")
		if len(segments) > limiter.MaxLevels || slices.Contains(segments, "") {
			p.r.Problem(f.Value, "key must have 1 to %d segments, none of them empty, got %q", limiter.MaxLevels, text)
		}
		s.key = text
	case "tier":
		s.tier = text
	case "model":
		s.model = text
	}
}

func (p *parser) step(n yamldoc.Node, defaults step) (step, bool) {
	s := defaults
	s.pos, s.keys, s.final, s.requests, s.want.granted = n, map[string]yamldoc.Node{}, true, 1, -1
	s.input, s.cached, s.output = -1, -1, -1
	fields := p.r.Fields(n, "a step", stepKeys)
	if !n.IsMapping() {
		return s, false
	}
	for _, f := range fields {
		s.keys[f.Name] = f.Key
		if !slices.Contains(verbs, f.Name) {
			continue
		}
		if s.verb != "" {
			p.r.Problem(f.Key, "a step must have one verb, got %s and %s", s.verb, f.Name)
			return s, false
		}
		s.verb = verb(f.Name)
	}
	if s.verb == "" {
		p.r.Problem(n, "a step needs a verb: one of %s", strings.Join(verbs, ", "))
		return s, false
	}
	for _, f := range fields {
		switch {
		case f.Name == "at":
			if at, ok := p.duration(f.Value, "at"); ok { // else it is that of the previous step
				s.at = at
			}
		case f.Name == string(s.verb):
			p.verb(&s, f.Value)
		case slices.Contains(callKeys, f.Name):
			p.call(&s, f)
		case slices.Contains(expectations, f.Name):
			p.expect(&s, f)
		case slices.Contains(keysOf[s.verb], f.Name):
			p.detail(&s, f)
		default:
			p.r.Problem(f.Key, "a %s step has no key %s", s.verb, f.Name)
		}
	}
	p.complete(&s)
	return s, true
}

// verb reads the value of the key that is the verb.
func (p *parser) verb(s *step, n yamldoc.Node) {
	if s.verb == check || s.verb == reserve {
		if n.IsNull() {
			return
		}
		key := "input_tokens"
		if s.verb == reserve {
			key = "output_tokens"
		}
		if other, twice := s.keys[key]; twice {
			p.r.Problem(other, "%s is given twice: %s: N also gives %s", key, s.verb, key)
		}
		v := p.count(n, string(s.verb))
		if s.verb == check {
			s.input = v
		} else {
			s.output = v
		}
		return
	}
	s.name, _ = p.r.Text(n, string(s.verb))
}

// detail reads one of keysOf the verb.
func (p *parser) detail(s *step, f yamldoc.Field) {
	switch f.Name {
	case "id":
		s.name, _ = p.r.Text(f.Value, "id")
	case "requests":
		s.requests = p.count(f.Value, f.Name)
	case "input_tokens":
		s.input = p.count(f.Value, f.Name)
	case "cached_input_tokens":
		s.cached = p.count(f.Value, f.Name)
	case "cache_write_tokens":
		s.write = p.count(f.Value, f.Name)
	case "cache_write_1h_tokens":
		s.write1h = p.count(f.Value, f.Name)
	case "images":
		s.images = p.count(f.Value, f.Name)
	case "searches":
		s.searches = p.count(f.Value, f.Name)
	case "service_tier":
		s.serviceTier, _ = p.r.Text(f.Value, f.Name)
	case "priority":
		if i, ok := p.r.Word(f.Value, f.Name, "interactive", "standard", "batch"); ok {
			s.priority = limiter.Priorities[i]
		}
	case "rejected":
		i, _ := p.r.Word(f.Value, f.Name, "true", "false")
		s.rejected = i == 0
	case "output_tokens":
		s.output = p.count(f.Value, f.Name)
	case "min_output_tokens":
		s.minOutput = p.count(f.Value, f.Name)
	case "n":
		s.choices = p.count(f.Value, f.Name)
	case "ttl":
		s.ttl, _ = p.duration(f.Value, f.Name)
	case "final":
		i, _ := p.r.Word(f.Value, f.Name, "true", "false")
		s.final = i == 0
	case "tokens":
		for _, other := range []string{"input_tokens", "output_tokens"} {
			if n, has := s.keys[other]; has {
				p.r.Problem(n, "tokens also gives input_tokens and output_tokens: leave out one of them")
			}
		}
		s.input, s.output = 0, p.count(f.Value, f.Name)
	case "costs":
		for _, c := range p.r.Fields(f.Value, "costs", nil) {
			if like := limiter.Dimension(c.Name).LikeBuiltin(); like != "" {
				p.r.Problem(c.Key, "costs are in dimensions of your own: %q is or looks like the built-in %s", c.Name, like)
				continue
			}
			s.costs = append(s.costs, limiter.Cost{Dimension: limiter.Dimension(c.Name), Amount: p.count(c.Value, c.Name)})
		}
	}
}

// complete sets defaults and checks what depends on the whole step.
func (p *parser) complete(s *step) {
	switch s.verb {
	case check:
		s.input, s.output = max(s.input, 0), max(s.output, 0)
	case reserve:
		s.input = max(s.input, 0)
	case settle, cancel:
		for _, k := range []string{"by", "granted", "retry_after", "reason"} {
			if n, has := s.keys[k]; has {
				p.r.Problem(n, "a %s makes no decision, so it has no %s", s.verb, k)
			}
		}
	case peek:
		for _, k := range []string{"want", "by", "granted", "retry_after", "reason"} {
			if n, has := s.keys[k]; has {
				p.r.Problem(n, "a peek makes no decision, so it has no %s", k)
			}
		}
		if len(s.want.remaining)+len(s.want.debt) == 0 {
			p.r.Problem(s.pos, "a peek needs remaining or debt")
		}
	}
}

func (p *parser) expect(s *step, f yamldoc.Field) {
	w := &s.want
	switch f.Name {
	case "want":
		words := []string{"allowed", "degraded", "denied", "unknown", "conflict", "invalid"}
		if s.verb == settle || s.verb == cancel {
			words = []string{"unknown", "conflict", "invalid"}
		}
		if i, ok := p.r.Word(f.Value, "want", words...); ok {
			w.outcome = words[i]
		}
	case "reason":
		words := []string{limiter.LimitExceeded.String(), limiter.ExceedsCapacity.String(), limiter.NoPrice.String(), limiter.TableFull.String(), limiter.IDsFull.String()}
		if i, ok := p.r.Word(f.Value, "reason", words...); ok {
			w.reason = words[i]
		}
	case "by":
		w.by, _ = p.r.Text(f.Value, "by")
	case "scope":
		w.scope, _ = p.r.Text(f.Value, "scope")
	case "granted":
		w.granted = p.count(f.Value, "granted")
	case "retry_after":
		w.retryAfter, w.hasRetryAfter = p.duration(f.Value, "retry_after")
	case "remaining":
		w.remaining = p.amounts(f)
	case "debt":
		w.debt = p.amounts(f)
	}
}

// amounts reads one amount, or a mapping from names of limits to amounts.
func (p *parser) amounts(f yamldoc.Field) (list []amount) {
	read := func(limit string, n yamldoc.Node) {
		text, ok := p.r.Text(n, f.Name)
		if !ok {
			return
		}
		dimension := limiter.Requests
		if strings.HasPrefix(text, "$") {
			dimension = limiter.Spend
		}
		if _, err := policy.ParseAmount(dimension, text); err != nil {
			p.r.Problem(n, "%s %v, got %q", f.Name, err, text)
		}
		list = append(list, amount{limit, text, n})
	}
	if !f.Value.IsMapping() {
		read("", f.Value)
		return list
	}
	for _, l := range p.r.Fields(f.Value, f.Name, nil) {
		read(l.Name, l.Value)
	}
	return list
}

func (p *parser) count(n yamldoc.Node, what string) int64 {
	text, ok := p.r.Text(n, what)
	if !ok {
		return 0
	}
	v, err := policy.ParseAmount(limiter.Requests, text)
	if err != nil {
		p.r.Problem(n, "%s %v, got %q", what, err, text)
	}
	return v
}

// maxDuration keeps virtual time within an int64 of nanoseconds.
const maxDuration = 10 * 366 * 24 * time.Hour

func (p *parser) duration(n yamldoc.Node, what string) (d time.Duration, ok bool) {
	text, ok := p.r.Text(n, what)
	if !ok {
		return 0, false
	}
	d, err := parseDuration(text)
	if _, number := strconv.Atoi(text); number == nil && text != "0" {
		p.r.Problem(n, "%s needs a unit, as in %ss", what, text)
		return 0, false
	} else if err != nil || d < 0 || d > maxDuration {
		p.r.Problem(n, "%s must be a duration such as 1m30s or 40d, at most %s, got %q", what, "3660d", text)
		return 0, false
	}
	return d, true
}

// parseDuration is [time.ParseDuration] with days, which come first: 40d, 1d12h.
func parseDuration(text string) (time.Duration, error) {
	days, rest, hasDays := strings.Cut(text, "d")
	if !hasDays {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil || rest == "" {
		return time.Duration(n) * 24 * time.Hour, err
	}
	d, err := time.ParseDuration(rest)
	if d < 0 {
		return 0, strconv.ErrSyntax
	}
	return time.Duration(n)*24*time.Hour + d, err
}

// position returns the place of a key of the step, or of the step if it has no such
// key.
func (s *step) position(key string) (file string, line, column int) {
	if n, has := s.keys[key]; has {
		return n.Position()
	}
	return s.pos.Position()
}

// String describes the step in messages of failures.
func (s *step) String() string {
	text := string(s.verb)
	if s.name != "" {
		text += " " + s.name
	}
	at := policy.FormatDuration(s.at)
	if day := 24 * time.Hour; s.at >= day && s.at%day == 0 {
		at = fmt.Sprintf("%dd", s.at/day)
	}
	return fmt.Sprintf("at %s %s", at, text)
}
