// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"encoding"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Spec specifies a workload. Its parts are parsed by [Parse], or each by its own
// function, and can be values of flags ([encoding.TextUnmarshaler]). The zero value
// works: checks with the sizes of chats, for 10,000 keys.
type Spec struct {
	Seed uint64
	// KeyPrefix is the prefix of every key. It must not contain "/": the first segment
	// decides which node owns a key, so one node would own them all.
	KeyPrefix string
	// IDPrefix is the prefix of every request id. It must differ between runs against
	// one target, which would answer a known id as before. Empty means KeyPrefix and
	// the seed.
	IDPrefix string

	Keys    Keys   // default: uniform:10k
	Tiers   Mix    // of keys; by default calls have no tier, and the policy decides
	Models  Mix    // of calls; by default calls have no model
	Tokens  Tokens // default: chat
	LLM     LLM    // default: 0%, or 100% in a replay
	Retries Retries
	// Replay has its own keys and tokens, and its own tiers if Tiers is not given.
	Replay Replay
}

const specHint = "write NAME=VALUE, with spaces between them; the names are " +
	"keys, tiers, models, tokens, llm, retries, replay, prefix, ids and seed"

// Parse parses a specification of one line, such as
// "keys=zipf:1.1x100k tokens=chat llm=30% seed=7". The error joins all problems.
func Parse(text string) (Spec, error) {
	var s Spec
	var problems []error
	seen := map[string]bool{}
	for _, field := range split(text) {
		name, value, ok := strings.Cut(field, "=")
		switch {
		case !ok:
			problems = append(problems, &Error{"spec", field, "must contain =", specHint})
		case seen[name]:
			problems = append(problems, &Error{name, value, "must not be given twice", ""})
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

// split returns the fields of a specification. Spaces around + do not end the field
// keys.
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
		s.KeyPrefix = value
		return nil
	case "ids":
		s.IDPrefix = value
		return nil
	case "seed":
		seed, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return &Error{name, value, "must be a whole number from 0 to 2^64-1", "write a seed such as 7"}
		}
		s.Seed = seed
		return nil
	default:
		return &Error{"spec", name, "unknown part", specHint}
	}
	if err := part.UnmarshalText([]byte(value)); err != nil {
		return inPart(name, value, hint, err)
	}
	return nil
}

// Validate returns all problems of the prefixes and of parts that exclude each other.
func (s Spec) Validate() error {
	var problems []error
	if err := checkText("the prefix", s.KeyPrefix, 0); err != nil {
		problems = append(problems, inPart("prefix", s.KeyPrefix, "write letters and digits such as r7-", err))
	} else if strings.Contains(s.KeyPrefix, "/") {
		problems = append(problems, &Error{
			"prefix", s.KeyPrefix, "all keys would have the same first segment and the same owner",
			"write it without / such as r7-",
		})
	}
	if err := checkText("the prefix of ids", s.IDPrefix, 0); err != nil {
		problems = append(problems, inPart("ids", s.IDPrefix, "write letters and digits such as r7-", err))
	}
	if s.Replay.speed > 0 {
		const hint = "leave it out, or replay"
		if s.Keys.parts != nil {
			problems = append(problems, &Error{"keys", s.Keys.String(), "a replay has its own keys", hint})
		}
		if s.Tokens.kind != "" {
			problems = append(problems, &Error{"tokens", s.Tokens.String(), "a replay has its own tokens", hint})
		}
	}
	return errors.Join(problems...)
}

// withDefaults sets the parts that were not given.
func (s Spec) withDefaults() Spec {
	replay := s.Replay.speed > 0
	if s.Keys.parts == nil && !replay {
		s.Keys = Keys{[]population{{kind: uniformKeys, share: fullShare, sizes: []int64{10_000}}}}
	}
	if s.Tokens.kind == "" && !replay {
		s.Tokens.kind = chatTokens
	}
	if !s.LLM.given {
		s.LLM = defaultLLM(0)
		if replay {
			s.LLM.share = fullShare
		}
	}
	if s.IDPrefix == "" {
		s.IDPrefix = s.KeyPrefix + strconv.FormatUint(s.Seed, 36) + "-"
	}
	return s
}

// String returns the canonical text, including defaults. [Parse] parses it to the same
// workload.
func (s Spec) String() string {
	ids := s.IDPrefix
	s = s.withDefaults()
	fields := []struct{ name, value string }{
		{"replay", s.Replay.String()},
		{"keys", s.Keys.String()},
		{"tiers", s.Tiers.String()},
		{"models", s.Models.String()},
		{"tokens", s.Tokens.String()},
		{"llm", s.LLM.String()},
		{"retries", s.Retries.String()},
		{"prefix", s.KeyPrefix},
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
