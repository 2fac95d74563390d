// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

func entries(of ...string) (list []*common.RateLimitDescriptor_Entry) {
	for i := 0; i+1 < len(of); i += 2 {
		list = append(list, &common.RateLimitDescriptor_Entry{Key: of[i], Value: of[i+1]})
	}
	return list
}

func TestCounterKeys(t *testing.T) {
	const want = "envoy:shop:user.path:c4ed"
	if got := counterKey("shop", entries("user", "ann", "path", "/v1"), nil); !strings.HasPrefix(got, want[:len(want)-4]) || len(got) != len(want)-4+32 {
		t.Errorf("counterKey = %s, want the domain, the keys and 32 digits", got)
	}
	// All of these have different counters.
	seen := map[string]int{}
	for i, key := range []string{
		counterKey("d", entries("a", "b"), nil),
		counterKey("d", entries("a", "c"), nil),
		counterKey("e", entries("a", "b"), nil),
		counterKey("d", entries("a", ""), nil),
		counterKey("d", entries("ab", ""), nil),
		counterKey("d", entries("", "ab"), nil),
		counterKey("d", entries("a", "b", "", ""), nil),
		counterKey("d", entries("a", "b", "c", "d"), nil),
		counterKey("d", entries("a", "b\x00c", "d", ""), nil),
		counterKey("d", entries("a", "x*"), nil),
		counterKey("d", entries("a", "xyz"), []string{"x*"}),
		counterKey("da", entries("", "b"), nil),
		counterKey("d", nil, nil),
	} {
		if other, dup := seen[key]; dup {
			t.Errorf("counters %d and %d have the same key %s", other, i, key)
		}
		seen[key] = i
	}
	if a, b := counterKey("d", entries("a", "x1"), []string{"x*"}), counterKey("d", entries("a", "x2"), []string{"x*"}); a != b {
		t.Errorf("values of one wildcard have the keys %s and %s, want one", a, b)
	}
}

// TestCounterKeysAreKeys: every counter key is a valid key of one segment.
func TestCounterKeysAreKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.Rune()), rapid.Just(strings.Repeat("é/", 300)))
		key := counterKey(text.Draw(t, "domain"), entries(text.Draw(t, "key"), text.Draw(t, "value"), text.Draw(t, "key2"), "v"), nil)
		if len(key) > 256 || !utf8.ValidString(key) || strings.Contains(key, "/") {
			t.Fatalf("counterKey = %q, want one segment of at most 256 bytes", key)
		}
		for _, r := range key {
			if !unicode.IsPrint(r) {
				t.Fatalf("counterKey = %q, want nothing but printable characters", key)
			}
		}
	})
}

// TestCountersSpread: the counters of one domain are in many partitions.
func TestCountersSpread(t *testing.T) {
	partitions := map[int]bool{}
	for i := range 1000 {
		partitions[limiter.PartitionOf(counterKey("shop", entries("user", string(rune('a'+i%26))+string(rune('a'+i/26))), nil))] = true
	}
	if len(partitions) < 800 {
		t.Errorf("1000 counters are in %d partitions, want them spread over most", len(partitions))
	}
}
