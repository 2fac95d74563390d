// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"fmt"
	"testing"

	"github.com/bucketring/bucketring/rpc/client"
)

func TestSettlementForPeople(t *testing.T) {
	limits := []client.LimitState{
		{Name: "rpm", Dimension: "requests", Cost: 1},
		{Name: "tpm", Dimension: "tokens", Scope: "acme", Cost: 1212},
		{Name: "tpm", Dimension: "tokens", Scope: "acme/alice", Cost: 1212},
		{Name: "spend", Dimension: "spend", Cost: 2_500_000, Hidden: true},
		{Name: "images", Dimension: "images", Cost: 2},
		{Name: "concurrent", Dimension: "concurrent", Cost: 1},
	}
	for want, s := range map[string]client.Settlement{
		"settled: 1 request, 1,212 tokens, 2 images": {Status: client.Settled, Limits: limits},
		"held: $2.50": {Status: client.Held, Limits: []client.LimitState{{Dimension: "spend", Cost: 2_500_000}}},
		"cancelled":   {Status: client.Cancelled, Limits: []client.LimitState{{Dimension: "tokens"}}},
		"settled: 1 request; the owner could not be reached, and a node reports it later": {Status: client.Settled, Limits: limits[:1], Route: client.Fallback},
	} {
		if got := fmt.Sprint(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
