// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
	"strings"
)

// assignRules yields the keys and patterns of assign with their tiers, sorted.
func (p *Policy) assignRules(yield func(key, tier string) bool) {
	keys := make([]string, 0, p.assign.count)
	p.assign.all(func(key string, _ assigned) { keys = append(keys, key) })
	slices.Sort(keys)
	for _, key := range keys {
		if a, _ := p.assign.get(keyIndex(key), key); !yield(key, p.rows.tiers.list[a.tier]) {
			return
		}
	}
}

// apiKeyEntries yields the entries of api_keys, sorted by hash.
func (p *Policy) apiKeyEntries(yield func(APIKey) bool) {
	entries := make([]apiKey, 0, p.apiKeys.count)
	p.apiKeys.all(func(_ sha256Sum, k apiKey) { entries = append(entries, k) })
	slices.SortFunc(entries, func(a, b apiKey) int { return compareSums(a.hash, b.hash) })
	for _, e := range entries {
		if !yield(APIKey{Hash: e.hash.String(), Key: e.key, Tier: p.tierName(e.tier)}) {
			return
		}
	}
}

// overrideEntries yields the entries of overrides, sorted by key and limit.
func (p *Policy) overrideEntries(yield func(Override) bool) {
	var list []Override
	p.overrides.all(func(_ string, o *keyOverrides) {
		for i := range o.list {
			d := o.list[i].Override
			d.Value, d.At = o.list[i].valueText(), Place{}
			list = append(list, d)
		}
	})
	slices.SortFunc(list, func(a, b Override) int {
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.Limit, b.Limit))
	})
	for _, o := range list {
		if !yield(o) {
			return
		}
	}
}
