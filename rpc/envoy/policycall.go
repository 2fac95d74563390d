// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"fmt"
	"slices"
	"strings"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"

	"github.com/bucketring/bucketring/limiter"
)

// policyCall is a call that a descriptor describes with these entries:
//
//	bucketring.key        the key. Several entries are its segments.
//	bucketring.tier       the tier; absent: the policy decides
//	bucketring.model      the model
//	bucketring.dimension  of the hits: requests (the default), tokens (the same as
//	                      input_tokens), output_tokens, or a dimension of the operator's
//	                      own
//	bucketring.mode       check (the default): charge if every limit has room. charge:
//	                      charge even beyond limits, for amounts that are known when an
//	                      answer has ended
//	bucketring.dialect    of the error body: openai, anthropic or none
//
// Other entries are ignored. With 0 hits the limits are only read: the descriptor is
// over its limit if one was used beyond its capacity.
type policyCall struct {
	key, tier, model, dimension, dialect string
	charge                               bool
}

// The names of entries after the prefix.
const (
	entryKey       = "key"
	entryTier      = "tier"
	entryModel     = "model"
	entryDimension = "dimension"
	entryMode      = "mode"
	entryDialect   = "dialect"
)

// inputTokens is the dimension that hits of tokens are charged as.
const inputTokens = string(limiter.InputTokens)

// isPolicyCall reports whether an entry has the prefix.
func (s *Service) isPolicyCall(w *common.RateLimitDescriptor) bool {
	for _, e := range w.GetEntries() {
		if strings.HasPrefix(e.GetKey(), s.options.Prefix) {
			return true
		}
	}
	return false
}

// parsePolicyCall parses the entries. Values come from Envoy's callers, so an error
// puts the descriptor over its limit.
func (s *Service) parsePolicyCall(d *descriptor) error {
	m := &d.call
	m.dimension = string(limiter.Requests)
	var segments []string
	for _, e := range d.wire.GetEntries() {
		name, ours := strings.CutPrefix(e.GetKey(), s.options.Prefix)
		if !ours {
			continue
		}
		var err error
		switch v := e.GetValue(); name {
		case entryKey:
			segments = append(segments, v)
		case entryTier:
			m.tier = v
		case entryModel:
			m.model = v
		case entryDimension:
			m.dimension, err = dimensionOf(v)
		case entryMode:
			m.charge, err = v == "charge", oneOf(v, "check", "charge")
		case entryDialect:
			m.dialect, err = v, oneOf(v, BodyNone, BodyOpenAI, BodyAnthropic)
		default:
			err = fmt.Errorf("unknown entry; known are %s", strings.Join([]string{entryKey, entryTier, entryModel, entryDimension, entryMode, entryDialect}, ", "))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.GetKey(), err)
		}
	}
	for _, segment := range segments {
		if len(segments) > 1 && strings.Contains(segment, "/") { // or one segment could pass for two
			return fmt.Errorf("%s%s: one of several segments must not contain /, got %q", s.options.Prefix, entryKey, segment)
		}
	}
	switch {
	case len(segments) == 0:
		return fmt.Errorf("%s%s: must be present beside other %s entries", s.options.Prefix, entryKey, s.options.Prefix)
	case d.wire.GetLimit() != nil:
		return fmt.Errorf("limit: must be absent, since the policy has the limits")
	case d.giveBack:
		return fmt.Errorf("is_negative_hits: must be false, since the policy cannot give hits back; reserve and settle instead")
	case m.charge && m.dimension == string(limiter.Requests):
		return fmt.Errorf("%s%s: charge needs a dimension other than requests", s.options.Prefix, entryMode)
	}
	m.key = strings.Join(segments, "/")
	return nil
}

func oneOf(value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("must be one of %s, got %q", strings.Join(allowed, ", "), value)
}

// dimensionOf parses the dimension of hits.
func dimensionOf(name string) (string, error) {
	switch limiter.Dimension(name) {
	case limiter.Tokens:
		return inputTokens, nil
	case limiter.Spend, limiter.Concurrent:
		return "", fmt.Errorf("must not be %s, which the policy computes itself", name)
	case "":
		return "", fmt.Errorf("must not be empty")
	}
	if like := limiter.Dimension(name).LikeBuiltin(); like != "" && name != string(like) {
		return "", fmt.Errorf("looks like a misspelled %s, got %q", like, name)
	}
	return name, nil
}
