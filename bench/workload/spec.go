// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"encoding"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Spec says what a workload is. Its parts are made from text, by [Parse] or each by
// its own function; they are also values of flags (encoding.TextUnmarshaler). The
// zero value works: checks of chat size by 10,000 keys.
type Spec struct {
	Seed uint64
	// Prefix begins every key. It must not contain "/": the first segment of a key
	// decides which node it belongs to, and all would be the same.
	Prefix string
	// IDs begins every request id. It must differ between runs against one target,
	// which answers an id that it knows as it did before. Empty: the prefix and the
	// seed.
	IDs string

	Keys    Keys   // empty: uniform:10k
	Tiers   Mix    // of keys; empty: calls name no tier, and the policy decides
	Models  Mix    // of calls; empty: calls name none
	Tokens  Tokens // empty: chat
	LLM     LLM    // empty: 0%, and 100% of a replay
	Retries Retries
	// Replay has keys and tokens of its own, and tiers unless Tiers says others.
	Replay Replay
}

const specHint = "write NAME=VALUE, with spaces between them; the names are " +
	"keys, tiers, models, tokens, llm, retries, replay, prefix, ids and seed"

// Parse reads a specification of one line, such as
// "keys=zipf:1.1x100k tokens=chat llm=30% seed=7". It returns every problem.
func Parse(text string) (Spec, error) {
	var s Spec
	var problems []error
	seen := map[string]bool{}
	for _, field := range split(text) {
		name, value, ok := strings.Cut(field, "=")
		switch {
		case !ok:
			problems = append(problems, &Error{"spec", field, "there is no =", specHint})
		case seen[name]:
			problems = append(problems, &Error{name, value, "it is there twice", ""})
		case value == "":
			problems = append(problems, &Error{name, value, "the value is missing", specHint})
		default:
			if err := s.set(name, value); err != nil {
				problems = append(problems, err)
			}
		}
		seen[name] = true
	}
	if err := errors.Join(problems...); err != nil {
		return Spec{}, err
	}
	return s, s.Validate()
}

// split returns the fields of a specification. A + with spaces around it does not
// end a field of keys.
func split(text string) []string {
	var fields []string
	for word := range strings.FieldsSeq(text) {
		if last := len(fields) - 1; last >= 0 && strings.HasPrefix(fields[last], "keys=") &&
			(strings.HasPrefix(word, "+") || strings.HasSuffix(fields[last], "+")) {
			fields[last] += word
			continue
		}
		fields = append(fields, word)
	}
	return fields
}

func (s *Spec) set(name, value string) error {
	var part encoding.TextUnmarshaler
	hint := ""
	switch name {
	case "keys":
		part = &s.Keys
	case "tiers":
		part, hint = &s.Tiers, mixHint
	case "models":
		part, hint = &s.Models, "write one name, or NAME=WEIGHT,... such as small=4,large=1"
	case "tokens":
		part = &s.Tokens
	case "llm":
		part = &s.LLM
	case "retries":
		part = &s.Retries
	case "replay":
		part = &s.Replay
	case "prefix":
		s.Prefix = value
		return nil
	case "ids":
		s.IDs = value
		return nil
	case "seed":
		seed, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return &Error{name, value, "it is not a whole number from 0 to 2^64-1", "write a seed such as 7"}
		}
		s.Seed = seed
		return nil
	default:
		return &Error{"spec", name, "no part is called so", specHint}
	}
	if err := part.UnmarshalText([]byte(value)); err != nil {
		return in(name, value, hint, err)
	}
	return nil
}

// Validate returns every problem of the parts with each other, and of the names.
func (s Spec) Validate() error {
	var problems []error
	if err := checkWord("the prefix", s.Prefix, 0); err != nil {
		problems = append(problems, in("prefix", s.Prefix, "write letters and digits such as r7-", err))
	} else if strings.Contains(s.Prefix, "/") {
		problems = append(problems, &Error{
			"prefix", s.Prefix, "all keys would have the same first segment, and belong to one node",
			"write it without / such as r7-",
		})
	}
	if err := checkWord("the begin of ids", s.IDs, 0); err != nil {
		problems = append(problems, in("ids", s.IDs, "write letters and digits such as r7-", err))
	}
	if s.Replay.speed > 0 {
		const hint = "leave it out, or replay"
		if s.Keys.parts != nil {
			problems = append(problems, &Error{"keys", s.Keys.String(), "a replay has keys of its own", hint})
		}
		if s.Tokens.kind != "" {
			problems = append(problems, &Error{"tokens", s.Tokens.String(), "a replay has tokens of its own", hint})
		}
	}
	return errors.Join(problems...)
}

// withDefaults says what was not said.
func (s Spec) withDefaults() Spec {
	replay := s.Replay.speed > 0
	if s.Keys.parts == nil && !replay {
		s.Keys = Keys{[]population{{kind: uniformKeys, share: whole, sizes: []int64{10_000}}}}
	}
	if s.Tokens.kind == "" && !replay {
		s.Tokens.kind = chatTokens
	}
	if !s.LLM.said {
		s.LLM = defaultLLM(0)
		if replay {
			s.LLM.share = whole
		}
	}
	if s.IDs == "" {
		s.IDs = s.Prefix + strconv.FormatUint(s.Seed, 36) + "-"
	}
	return s
}

// String returns the canonical text, with what was not said: [Parse] makes the same
// workload of it.
func (s Spec) String() string {
	ids := s.IDs
	s = s.withDefaults()
	fields := []struct{ name, value string }{
		{"replay", s.Replay.String()},
		{"keys", s.Keys.String()},
		{"tiers", s.Tiers.String()},
		{"models", s.Models.String()},
		{"tokens", s.Tokens.String()},
		{"llm", s.LLM.String()},
		{"retries", s.Retries.String()},
		{"prefix", s.Prefix},
		{"ids", ids},
		{"seed", strconv.FormatUint(s.Seed, 10)},
	}
	var texts []string
	for _, f := range fields {
		if f.value != "" {
			texts = append(texts, fmt.Sprintf("%s=%s", f.name, f.value))
		}
	}
	return strings.Join(texts, " ")
}
