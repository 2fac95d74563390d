// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench"
)

// class is a kind of keys and of their calls.
type class struct {
	tier   string
	keys   int
	weight int // share of the calls
	llm    int // percent of its calls that reserve, report progress and settle
	// perTeam, if not 0, makes the keys those of members, of whom so many share the limits of
	// a team.
	perTeam int
}

// small is the tier whose charges are below 1 % of the limit. Those of all others are above.
const small = "small"

// classes are all keys of an iteration. Some of the keys of each reach a limit.
var classes = []class{
	{tier: "budget", keys: 40, weight: 25, llm: 100},
	{tier: small, keys: 8, weight: 45},
	{tier: "share", keys: 40, weight: 20, llm: 50},
	{tier: "open", keys: 12, weight: 5},
	{tier: "rate", keys: 16, weight: 5},
}

// policyText returns the policy of a cluster. The amounts are for iterations of about 15 s,
// times scale. Nothing comes back during the day, except in the tier rate, so the audit is exact.
func policyText(scale int) string {
	return fmt.Sprintf(`
tiers:
  budget:
    limits:
      - { dimension: requests, limit: %d, window: day, unreachable: closed }
      - { dimension: tokens, limit: %d, window: day, unreachable: closed }
      - { dimension: spend, limit: $%d.%06d, window: day, unreachable: closed }
  small:
    limits:
      - { dimension: requests, limit: %d, window: day, unreachable: closed }
  share:
    limits:
      - { dimension: requests, limit: %d, window: day, unreachable: share }
      - { dimension: tokens, limit: %d, window: day, unreachable: share }
      - { dimension: spend, limit: $%d.%06d, window: day, unreachable: share }
  open:
    limits:
      - { dimension: requests, limit: %d, window: day, unreachable: open }
  rate:
    limits:
      - { dimension: requests, limit: 60, window: 1m, unreachable: share }
      - { dimension: tokens, limit: 30_000, window: 1m, unreachable: share }
default_tier: budget
prices:
  "*": { input: 1.00, output: 3.00 }
`, 32*scale, 24_000*scale, 40_000*scale/1e6, 40_000*scale%1e6,
		250*scale,
		24*scale, 20_000*scale, 30_000*scale/1e6, 30_000*scale%1e6,
		30*scale)
}

// key is a key of an iteration.
type key struct{ name, tier string }

// load makes the calls of an iteration. Only one goroutine may use it.
type load struct {
	prefix  string
	random  *rand.Rand
	classes []class
	keys    []key
	index   map[string]int32 // name -> index
	first   []int            // by class: index of its first key
	weight  int              // of all classes
	calls   int64
	// lease outlasts a split: a settle that waits for its end finds its reservation. One
	// that had expired would charge its last report until then.
	lease time.Duration
}

// newLoad returns the load of an iteration. No two with different prefixes share keys.
func newLoad(prefix string, classes []class, seed uint64, lease time.Duration) *load {
	l := &load{prefix: prefix, classes: classes, lease: lease, random: rand.New(rand.NewPCG(seed, 0x636f6e74)), index: map[string]int32{}} //nolint:gosec // reproducible
	for _, c := range classes {
		l.first = append(l.first, len(l.keys))
		l.weight += c.weight
		for i := range c.keys {
			k := key{fmt.Sprintf("%s-%s-%d", prefix, c.tier, i), c.tier}
			if c.perTeam > 0 {
				k.name = fmt.Sprintf("%s-team-%d/%d", prefix, i/c.perTeam, i%c.perTeam)
			}
			l.index[k.name] = int32(len(l.keys))
			l.keys = append(l.keys, k)
		}
	}
	return l
}

// Next implements [bench.Workload]. It has no end.
func (l *load) Next(c *bench.Call) bool {
	n := l.random.IntN(l.weight)
	i := 0
	for n >= l.classes[i].weight {
		n -= l.classes[i].weight
		i++
	}
	cl := &l.classes[i]
	// The first keys of a class get three times as many calls as the last ones.
	at := l.random.IntN(cl.keys)
	if l.random.IntN(2) == 0 {
		at /= 2
	}
	l.calls++
	c.Key, c.Tier, c.ID = l.keys[l.first[i]+at].name, cl.tier, fmt.Sprintf("%s-%d", l.prefix, l.calls)
	c.InputTokens, c.OutputTokens = 100+l.random.Int64N(600), 50+l.random.Int64N(500)
	if c.LLM = l.random.IntN(100) < cl.llm; c.LLM {
		c.MaxOutputTokens = c.OutputTokens + l.random.Int64N(500)
		c.Duration = 300*time.Millisecond + time.Duration(l.random.Int64N(int64(2*time.Second)))
		c.ProgressReports = 2
		c.Lease = l.lease
	}
	return true
}

// isSmall reports whether the charges of a key are below 1 % of its limits.
func isSmall(key string) bool { return strings.Contains(key, "-"+small+"-") }
