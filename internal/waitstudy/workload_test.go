// SPDX-License-Identifier: Apache-2.0

package waitstudy

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/limiter/policy"
)

// inputTokens is the length of each prompt.
const inputTokens = 20

// workload is a burst of calls from the users of one organisation.
type workload struct {
	rate     int64         // of the limit, in tokens per second
	burst    int64         // of the limit, in tokens
	length   time.Duration // of the burst
	maxWait  time.Duration
	maxDepth int
	groups   []group
	users    []user
	calls    []call // in the order of arrival
}

// group is users who ask for the same.
type group struct {
	tier   string
	weight int64
	users  int
	demand float64 // of all of them together, as a part of the rate of the limit
	large  float64 // part of the calls that are four times as large
}

// user is a user with the tokens that the calls of the user cost.
type user struct {
	name   string
	tier   string
	weight int64
	asked  int64
}

// call is a call of the workload.
type call struct {
	user   int
	at     time.Duration // since the start of the burst
	output int64         // tokens
}

func (c *call) cost() int64 { return inputTokens + c.output }

// fullWorkload asks for three times the limit for 10 s: 50 users, ten with the weight 3. Eight
// of the others ask for half of everything, with large calls among it.
func fullWorkload() *workload {
	return newWorkload(workload{
		rate: 10_000, burst: 2_000, length: 10 * time.Second, maxWait: 5 * time.Second, maxDepth: 500,
		groups: []group{
			{tier: "user", weight: 1, users: 32, demand: 0.9},
			{tier: "team", weight: 3, users: 10, demand: 0.7},
			{tier: "user", weight: 1, users: 8, demand: 1.4, large: 0.2},
		},
	})
}

// shortWorkload is a small form of fullWorkload: 18 users, for 3 s.
func shortWorkload() *workload {
	return newWorkload(workload{
		rate: 8_000, burst: 1_000, length: 3 * time.Second, maxWait: 2 * time.Second, maxDepth: 300,
		groups: []group{
			{tier: "user", weight: 1, users: 12, demand: 1.1},
			{tier: "team", weight: 3, users: 3, demand: 0.7},
			{tier: "user", weight: 1, users: 3, demand: 1.2, large: 0.2},
		},
	})
}

// newWorkload draws the calls. They are the same in each run.
func newWorkload(w workload) *workload {
	const least, most = 80, 280 // tokens of output
	random := rand.New(rand.NewPCG(17, 17))
	for _, g := range w.groups {
		mean := inputTokens + (least+most)/2*(1+3*g.large)
		each := g.demand * float64(w.rate) / float64(g.users) / mean // calls per second
		for range g.users {
			u := user{name: fmt.Sprintf("u%02d", len(w.users)), tier: g.tier, weight: g.weight}
			for at := random.ExpFloat64() / each; at < w.length.Seconds(); at += random.ExpFloat64() / each {
				c := call{user: len(w.users), at: time.Duration(at * float64(time.Second)), output: least + random.Int64N(most-least+1)}
				if random.Float64() < g.large {
					c.output *= 4
				}
				u.asked += c.cost()
				w.calls = append(w.calls, c)
			}
			w.users = append(w.users, u)
		}
	}
	slices.SortFunc(w.calls, func(a, b call) int { return cmp.Compare(a.at, b.at) })
	return &w
}

// policy returns the policy, with an API key for each user.
func (w *workload) policy() string {
	var b strings.Builder
	fmt.Fprintf(&b, `
tiers:
  org:
    limits:
      - { name: org-tokens, dimension: tokens, limit: %d, window: 1m, burst: %d, queue: { max_wait: %s, max_depth: %d } }
  user: { weight: 1, limits: [{ dimension: requests, limit: 100_000, window: 1m }] }
  team: { weight: 3, limits: [{ dimension: requests, limit: 100_000, window: 1m }] }
default_tier: user
assign: [{ key: org, tier: org }]
api_keys:
`, 60*w.rate, w.burst, w.maxWait, w.maxDepth)
	for _, u := range w.users {
		fmt.Fprintf(&b, "  - { hash: %q, key: org/%s, tier: %s }\n", policy.HashAPIKey("sk-"+u.name), u.name, u.tier)
	}
	return b.String()
}

// asked returns the tokens of all calls.
func (w *workload) asked() (sum int64) {
	for _, u := range w.users {
		sum += u.asked
	}
	return sum
}

// fairShares divides tokens among the users by their weights. Nobody gets more than the user
// asked for; what that leaves is divided among the others.
func (w *workload) fairShares(tokens int64) []float64 {
	shares := make([]float64, len(w.users))
	left, weights := float64(tokens), 0.0
	order := make([]int, len(w.users)) // by what a user asks for per weight
	for i, u := range w.users {
		order[i] = i
		weights += float64(u.weight)
	}
	perWeight := func(i int) float64 { return float64(w.users[i].asked) / float64(w.users[i].weight) }
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(perWeight(a), perWeight(b)) })
	for _, i := range order {
		weight := float64(w.users[i].weight)
		shares[i] = min(float64(w.users[i].asked), left*weight/weights)
		left -= shares[i]
		weights -= weight
	}
	return shares
}
