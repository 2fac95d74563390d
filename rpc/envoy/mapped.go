// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"fmt"
	"slices"
	"strings"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"

	"github.com/bucketring/bucketring/limiter"
)

// mapped is a descriptor that is a call under the policy, as its entries say:
//
//	bucketring.key        whose call it is. Several entries are the segments of one key.
//	bucketring.tier       the tier; absent: the policy decides
//	bucketring.model      the model
//	bucketring.dimension  what the hits are: requests, which is the default, tokens
//	                      (input_tokens is the same), output_tokens, or a dimension of
//	                      the operator's own
//	bucketring.mode       check, which is the default: charged if every limit has room,
//	                      and not at all otherwise. charge: charged whatever the limits
//	                      say, for amounts that are known when the answer has ended
//	bucketring.dialect    the body of a refusal: openai, anthropic or none
//
// Entries with other names do not count. With 0 hits it is a look: over if a limit
// has been used beyond its capacity.
type mapped struct {
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

// inputTokens is what tokens are charged as when nobody says which they are.
const inputTokens = string(limiter.InputTokens)

// isMapped reports whether an entry has the prefix.
func (s *Service) isMapped(w *common.RateLimitDescriptor) bool {
	for _, e := range w.GetEntries() {
		if strings.HasPrefix(e.GetKey(), s.options.Prefix) {
			return true
		}
	}
	return false
}

// mapDescriptor reads the entries. The values come from Envoy's callers, so what
// is wrong with them is the descriptor's problem.
func (s *Service) mapDescriptor(d *descriptor) error {
	m := &d.mapped
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
			err = fmt.Errorf("no entry has this name; there are %s", strings.Join([]string{entryKey, entryTier, entryModel, entryDimension, entryMode, entryDialect}, ", "))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.GetKey(), err)
		}
	}
	for _, segment := range segments {
		if len(segments) > 1 && strings.Contains(segment, "/") { // or one segment could pose as two
			return fmt.Errorf("%s%s: one of several must not have a /, got %q", s.options.Prefix, entryKey, segment)
		}
	}
	switch {
	case len(segments) == 0:
		return fmt.Errorf("%s%s: must be there beside other %s entries", s.options.Prefix, entryKey, s.options.Prefix)
	case d.wire.GetLimit() != nil:
		return fmt.Errorf("limit: the limits are the policy's, and not those of a request")
	case d.giving:
		return fmt.Errorf("is_negative_hits: nothing can be given back under a policy; reserve and settle instead")
	case m.charge && m.dimension == string(limiter.Requests):
		return fmt.Errorf("%s%s: charge is for tokens and own dimensions, got dimension requests", s.options.Prefix, entryMode)
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

// dimensionOf checks what hits are to be charged as.
func dimensionOf(name string) (string, error) {
	switch limiter.Dimension(name) {
	case limiter.Tokens:
		return inputTokens, nil
	case limiter.Spend, limiter.Concurrent:
		return "", fmt.Errorf("hits cannot be %s, which the policy works out by itself", name)
	case "":
		return "", fmt.Errorf("must not be empty")
	}
	return name, nil
}
