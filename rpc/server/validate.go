// SPDX-License-Identifier: Apache-2.0

package server

import (
	"math"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
)

// The bounds of what a caller may send. Amounts go up to [limiter.MaxAmount].
const (
	maxNameBytes     = text.MaxNameBytes
	maxIDBytes       = requestid.MaxBytes
	maxCostNameBytes = limiter.MaxCostNameBytes
	maxCosts         = limiter.MaxCosts
	maxTTLSeconds    = limiter.MaxTTLSeconds
)

func wrong(field, value, problem string) *limiter.FieldError {
	return &limiter.FieldError{Field: field, Value: value, Problem: problem}
}

func wrongText(field, value, problem string) *limiter.FieldError {
	return wrong(field, text.Quote(value), problem)
}

func checkKey(key string) error {
	if err := limiter.ValidateKey(key); err != nil {
		return wrongText("key", key, err.Error())
	}
	return nil
}

// checkText says whether s is printable UTF-8 of the allowed length. A space
// is printable, other white space is not.
func checkText(field, s string, atLeast, atMost int) error {
	if problem := text.Problem(s, atLeast, atMost); problem != "" {
		return wrongText(field, s, problem)
	}
	return nil
}

func checkNumber(field string, n, atLeast, atMost int64) error {
	if n >= atLeast && n <= atMost {
		return nil
	}
	bound := decimal(atMost)
	if atMost == limiter.MaxAmount {
		bound = amount.MaxText
	}
	return wrong(field, decimal(n), "must be between "+decimal(atLeast)+" and "+bound)
}

func checkAmount(field string, n int64) error { return checkNumber(field, n, 0, limiter.MaxAmount) }

// optional checks a number that may be absent and returns it, or absent.
func optional(field string, n *int64, absent, atLeast, atMost int64) (int64, error) {
	if n == nil {
		return absent, nil
	}
	return *n, checkNumber(field, *n, atLeast, atMost)
}

// checkOutput says whether input + n x output is an amount. All are amounts
// already, and n is small.
func checkOutput(field string, input, n, output int64) error {
	if output > (math.MaxInt64-input)/n || input+n*output > limiter.MaxAmount {
		return wrong(field, decimal(output), "input and output tokens together must be at most "+amount.MaxText)
	}
	return nil
}

// costHints say what to do instead of charging a built-in dimension by name.
var costHints = map[limiter.Dimension]string{
	limiter.Requests:     "is a built-in dimension: use the field requests",
	limiter.Tokens:       "is a built-in dimension: send input_tokens and the output, tokens is their sum",
	limiter.InputTokens:  "is a built-in dimension: use the field input_tokens",
	limiter.OutputTokens: "is a built-in dimension: use the field output_tokens (max_output_tokens in a reserve)",
	limiter.Spend:        "is a built-in dimension: the policy's prices turn tokens into money",
	limiter.Concurrent:   "is a built-in dimension: a reserve takes one slot by itself",
}

func checkCost(name string, amount int64) error {
	if problem := text.Problem(name, 1, maxCostNameBytes); problem != "" {
		return wrongText("costs", name, "a name "+problem)
	}
	if like := limiter.Dimension(name).LikeBuiltin(); like != "" {
		hint := costHints[like]
		if name != string(like) {
			hint = "looks like a misspelled " + string(like) + ", which " + hint
		}
		return wrong("costs."+name, decimal(amount), hint)
	}
	if amount < 0 || amount > limiter.MaxAmount { // joins text only when it must
		return checkAmount("costs."+name, amount)
	}
	return nil
}
