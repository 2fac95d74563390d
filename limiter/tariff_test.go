// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// tariffDimensions are those that reserves from slices are charged in.
var tariffDimensions = []limiter.Dimension{limiter.Requests, limiter.Tokens, limiter.InputTokens, limiter.OutputTokens, limiter.Spend, "images", "videos"}

// largeLimits draws limits that deny nothing but the largest calls.
func largeLimits(t *rapid.T) (limits []limiter.Limit) {
	for i := range rapid.IntRange(1, 6).Draw(t, "limits") {
		limits = append(limits, limiter.Limit{
			Name: strconv.Itoa(i), Dimension: rapid.SampledFrom(tariffDimensions).Draw(t, "dimension"),
			Algorithm: rapid.SampledFrom([]limiter.Algorithm{limiter.TokenBucket, limiter.SlidingWindow, limiter.FixedWindow}).Draw(t, "algorithm"),
			Amount:    limiter.MaxAmount, Window: 1000 * time.Hour, Shadow: i > 0 && rapid.IntRange(0, 4).Draw(t, "shadow") == 0,
		})
	}
	return limits
}

// drawAmount draws a number that is small as a rule.
func drawAmount(t *rapid.T, what string) int64 {
	return rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, 5000), rapid.Int64Range(0, 5000), rapid.Int64Range(0, limiter.MaxAmount)).Draw(t, what)
}

func drawRates(t *rapid.T) (r limiter.Rates) {
	price := func(what string) int64 { return rapid.Int64Range(0, 20_000_000).Draw(t, what) }
	factors := map[string]int64{}
	for _, name := range []string{"flex", "priority", "batch"} {
		if rapid.Bool().Draw(t, name) {
			factors[name] = rapid.Int64Range(0, 3_000_000).Draw(t, "factor")
		}
	}
	tiers, err := limiter.NewServiceTiers(factors)
	if err != nil {
		t.Fatal(err)
	}
	r = limiter.Rates{
		Priced: true, InputPrice: price("input"), CachedInputPrice: price("cached"), OutputPrice: price("output"), CacheWritePrice: price("write"), CacheWrite1hPrice: price("write 1h"),
		RequestFee: price("request"), ImageFee: price("image"), SearchFee: price("search"), ServiceTiers: tiers, Weights: limiter.DefaultWeights,
	}
	if rapid.Bool().Draw(t, "weights") {
		r.Weights = limiter.Weights{Input: price("weight"), CachedInput: price("weight"), Output: price("weight")}
	}
	return r
}

// drawPlan draws a plan for the key acme/alice whose levels have different estimates.
func drawPlan(t *rapid.T, c *limiter.Catalog) *limiter.Plan {
	set := func() *limiter.LimitSet {
		s, err := c.LimitSet(largeLimits(t))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	p := &limiter.Plan{Tier: "t", Version: rapid.Uint64().Draw(t, "version"), Rates: drawRates(t), DefaultOutput: rapid.Int64Range(0, 9000).Draw(t, "default output"), BoundOutput: rapid.Bool().Draw(t, "bound"), Count: rapid.IntRange(1, 2).Draw(t, "levels")}
	for i := range p.Count {
		p.Levels[i] = limiter.Level{End: []int{4, 10}[i], Tier: "t", Limits: set(), Estimate: limiter.Estimate{
			Mode:   limiter.EstimateMode(rapid.IntRange(0, 2).Draw(t, "mode")),
			Output: rapid.Int64Range(0, 3000).Draw(t, "fixed output"),
		}}
		if rapid.Bool().Draw(t, "per model") {
			p.Levels[i].Model = set()
		}
	}
	return p
}

func drawCosts(t *rapid.T) (costs []limiter.Cost) {
	for _, d := range []limiter.Dimension{"images", "videos", "unlimited"} {
		if rapid.Bool().Draw(t, string(d)) {
			costs = append(costs, limiter.Cost{Dimension: d, Amount: drawAmount(t, "amount")})
		}
	}
	return costs
}

func drawReserve(t *rapid.T, p *limiter.Plan, id string) *limiter.Request {
	r := &limiter.Request{
		Key: "acme/alice"[:p.Levels[p.Count-1].End], Model: "m", Plan: p, ID: id,
		Requests: rapid.SampledFrom([]int64{1, 1, 0, 7}).Draw(t, "requests"), InputTokens: drawAmount(t, "input"), OutputTokens: drawAmount(t, "output"), Costs: drawCosts(t),
		ServiceTier: rapid.SampledFrom([]string{"", "flex", "priority", "batch", "other"}).Draw(t, "service tier"),
		Choices:     rapid.SampledFrom([]int64{0, 1, 3}).Draw(t, "n"),
	}
	if rapid.IntRange(0, 3).Draw(t, "no output") == 0 {
		r.OutputTokens = -1
	}
	return r
}

// drawUsage draws a usage whose numbers may be absent, or contradict each other.
func drawUsage(t *rapid.T, r *limiter.Request) *limiter.Usage {
	some := func(what string) int64 {
		return rapid.OneOf(rapid.Just(int64(-1)), rapid.Int64Range(0, 900), rapid.Int64Range(0, 9000), rapid.Int64Range(0, limiter.MaxAmount)).Draw(t, what)
	}
	u := &limiter.Usage{
		Key: r.Key, ID: r.ID, InputTokens: some("used input"), OutputTokens: some("used output"), Costs: drawCosts(t),
		ServiceTier: rapid.SampledFrom([]string{"", "flex", "priority", "other"}).Draw(t, "given service tier"), Rejected: rapid.IntRange(0, 5).Draw(t, "rejected") == 0, Final: true,
	}
	if rapid.Bool().Draw(t, "parts") {
		u.CachedInputTokens, u.CacheWriteTokens, u.CacheWrite1hTokens = some("cached"), some("write"), some("write 1h")
	}
	if rapid.Bool().Draw(t, "extras") {
		u.Images, u.Searches = some("images"), some("searches")
	}
	return u
}

// lendReserves lends a slice for reserves like r. It returns nil if none is lent.
func lendReserves(t *rapid.T, n *limiter.Engine, r *limiter.Request) *limiter.Loan {
	var d limiter.Decision
	if err := n.Reserve(noon, r, &d); err != nil || d.Outcome != limiter.Allowed {
		return nil
	}
	l := &limiter.Loan{ID: "slice", Share: 1000, Holders: 1, Reserve: true}
	if ok, err := n.Lend(noon, r, l, &d); err != nil || !ok {
		return nil
	}
	return l
}

// sameError fails unless both errors are nil, or name the same field and value.
func sameError(t *rapid.T, call string, got, want error) {
	t.Helper()
	if (got == nil) != (want == nil) || want != nil && got.Error() != want.Error() {
		t.Fatalf("%s = %v, want %v as the engine", call, got, want)
	}
}

// TestTariffIsWhatTheEngineCharges reserves and settles random calls at an engine, which must
// charge exactly what a tariff of the same plan says.
func TestTariffIsWhatTheEngineCharges(t *testing.T) {
	reserved, settled := 0, 0
	check := func(t *rapid.T) {
		c := limiter.NewCatalog()
		n, owner := limiter.New(limiter.Options{Catalog: c}), limiter.New(limiter.Options{Catalog: c})
		p := drawPlan(t, c)
		typical := &limiter.Request{Key: "acme/alice"[:p.Levels[p.Count-1].End], Model: "m", Plan: p, ID: "first", Requests: 1, InputTokens: 100, OutputTokens: 50, Costs: []limiter.Cost{{Dimension: "images", Amount: 1}, {Dimension: "videos", Amount: 1}}}
		l := lendReserves(t, owner, typical)
		if l == nil {
			t.Skip("nothing is lent")
		}
		tariff, err := limiter.ReadTariff(l.Tariff.Append(nil))
		if err != nil {
			t.Fatalf("ReadTariff() = %v", err)
		}
		if tariff.Limits() != len(l.Amounts) || tariff.Tier() != "t" || tariff.PolicyVersion() != p.Version || tariff.BoundOutput() != p.BoundOutput {
			t.Fatalf("tariff %+v of a slice of %d limits of plan %+v", tariff, len(l.Amounts), p)
		}
		costs, used := make([]int64, tariff.Limits()), make([]int64, tariff.Limits())
		for i := range 5 {
			r := drawReserve(t, p, strconv.Itoa(i))
			var d limiter.Decision
			wantErr := n.Reserve(noon, r, &d)
			bare := *r
			bare.Plan = nil
			granted, err := tariff.Reserve(&bare, costs)
			sameError(t, "Tariff.Reserve()", err, wantErr)
			if err != nil || d.Outcome != limiter.Allowed {
				continue
			}
			reserved++
			wantCosts(t, "Tariff.Reserve()", costs, d)
			if granted != d.GrantedOutputTokens {
				t.Fatalf("Tariff.Reserve() grants %d, want %d", granted, d.GrantedOutputTokens)
			}
			u := drawUsage(t, r)
			wantErr = n.Settle(noon, u, &d)
			_, err = tariff.Settle(&bare, u, costs, used)
			sameError(t, fmt.Sprintf("Tariff.Settle(%+v)", *u), err, wantErr)
			if err == nil {
				settled++
				wantCosts(t, fmt.Sprintf("Tariff.Settle(%+v)", *u), used, d)
			}
		}
	}
	for range 10 { // usually one is enough
		if rapid.Check(t, check); reserved >= 50 && settled >= 10 {
			break
		}
	}
	if reserved < 50 || settled < 10 {
		t.Errorf("%d reserves and %d settles were compared, want enough to test a tariff", reserved, settled)
	}
}

// wantCosts fails unless the limits of d were charged that. One in shadow mode that does not
// fit is charged nothing, and the debt of a bucket is bounded.
func wantCosts(t *rapid.T, call string, costs []int64, d limiter.Decision) {
	t.Helper()
	for i, st := range d.Limits {
		if st.Exceeded && st.Shadow || st.Debt > 0 {
			continue
		}
		if costs[i] != st.Cost {
			t.Fatalf("%s: costs %v, want %d of limit %d, %s of %s", call, costs, st.Cost, i, st.Dimension, st.Scope)
		}
	}
}

// exampleTariff returns a tariff with all that one can have.
func exampleTariff(t testing.TB) *limiter.Tariff {
	n := newNode(t, limiter.Options{})
	p := plan("acme", mustSet(t, n.catalog,
		limiter.Limit{Name: "rpm", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 1e6, Window: time.Minute},
		limiter.Limit{Name: "images", Dimension: "images", Algorithm: limiter.FixedWindow, Amount: 1e9, Window: time.Hour},
		limiter.Limit{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 1e12, Calendar: limiter.Day}))
	p.Rates, p.DefaultOutput, p.BoundOutput, p.Version = prices(t), 700, true, 1<<63+5
	p.Levels[0].Estimate = limiter.Estimate{Mode: limiter.EstimateFixed, Output: 300}
	r := &limiter.Request{Key: "acme", ID: "r", Plan: p, Requests: 1, InputTokens: 10, OutputTokens: 20, ServiceTier: "priority"}
	n.reserve(noon, r)
	l := &limiter.Loan{ID: "slice", Share: 1000, Holders: 1, Reserve: true}
	var d limiter.Decision
	if ok, err := n.Lend(noon, r, l, &d); !ok || err != nil {
		t.Fatalf("Lend() = %v, %v", ok, err)
	}
	return l.Tariff
}

// framed returns the body of a tariff with its magic and a correct checksum.
func framed(body []byte) []byte {
	b := append([]byte("brt\x01"), body...)
	sum := xxhash.Sum64(b)
	for i := range 8 {
		b = append(b, byte(sum>>(8*i)))
	}
	return b
}

// TestReadTariff reads a tariff that is truncated or damaged, with the checksum that it then
// has, and without.
func TestReadTariff(t *testing.T) {
	whole := exampleTariff(t).Append([]byte("before"))[len("before"):]
	again, err := limiter.ReadTariff(whole)
	if err != nil || !slices.Equal(again.Append(nil), whole) {
		t.Fatalf("ReadTariff() = %+v, %v, want what was encoded", again, err)
	}
	if want := exampleTariff(t); !reflect.DeepEqual(again, want) {
		t.Errorf("ReadTariff() = %+v, want %+v", again, want)
	}
	body := whole[4 : len(whole)-8]
	if _, err := limiter.ReadTariff(framed(body)); err != nil {
		t.Fatalf("ReadTariff() of a frame = %v", err)
	}
	for n := range len(whole) {
		if _, err := limiter.ReadTariff(whole[:n]); err == nil {
			t.Errorf("ReadTariff() of %d of %d bytes = no error", n, len(whole))
		}
		damaged := slices.Clone(whole)
		damaged[n] ^= 0x41
		if _, err := limiter.ReadTariff(damaged); err == nil {
			t.Errorf("ReadTariff() with byte %d changed = no error", n)
		}
	}
	for n := range len(body) {
		if _, err := limiter.ReadTariff(framed(body[:n])); err == nil {
			t.Errorf("ReadTariff() of %d of %d bytes with a checksum = no error", n, len(body))
		}
	}
	for what, b := range map[string][]byte{
		"trailing data":       append(slices.Clone(body), 0),
		"a number above 2^53": slices.Concat(body[:10], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, body[10:]),
	} {
		if _, err := limiter.ReadTariff(framed(b)); err == nil {
			t.Errorf("ReadTariff() with %s = no error", what)
		}
	}
}

// FuzzReadTariff: whatever bytes come, there is an error or a tariff that can be used.
func FuzzReadTariff(f *testing.F) {
	whole := exampleTariff(f).Append(nil)
	f.Add(whole)
	f.Add(whole[4 : len(whole)-8])
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, b := range [][]byte{data, framed(data)} {
			tariff, err := limiter.ReadTariff(b)
			if (tariff == nil) == (err == nil) {
				t.Fatalf("ReadTariff() = %v, %v, want one of them", tariff, err)
			}
			if err != nil {
				continue
			}
			if again, err := limiter.ReadTariff(tariff.Append(nil)); err != nil || again.Limits() != tariff.Limits() {
				t.Fatalf("ReadTariff() of what was read = %v", err)
			}
			costs := make([]int64, tariff.Limits())
			var field *limiter.FieldError
			r := &limiter.Request{Requests: 1, InputTokens: limiter.MaxAmount, OutputTokens: -1, Choices: 3, ServiceTier: "flex"}
			if _, err := tariff.Reserve(r, costs); err != nil && !errors.As(err, &field) {
				t.Errorf("Reserve() = %v, want a FieldError", err)
			}
			if _, err := tariff.Settle(r, &limiter.Usage{InputTokens: 7, OutputTokens: limiter.MaxAmount, Images: 3, Final: true}, costs, costs); err != nil && !errors.As(err, &field) {
				t.Errorf("Settle() = %v, want a FieldError", err)
			}
			for _, n := range costs {
				if n < 0 || n > limiter.MaxAmount {
					t.Errorf("cost %d is out of range", n)
				}
			}
		}
	})
}

// TestTariffDoesNotAllocate checks what holders do for each call.
func TestTariffDoesNotAllocate(t *testing.T) {
	tariff := exampleTariff(t)
	costs, used := make([]int64, tariff.Limits()), make([]int64, tariff.Limits())
	r := &limiter.Request{Requests: 1, InputTokens: 10, OutputTokens: -1, ServiceTier: "priority", Costs: []limiter.Cost{{Dimension: "images", Amount: 3}}}
	u := &limiter.Usage{InputTokens: 9, CachedInputTokens: 4, OutputTokens: 5, Images: 1, Final: true}
	if allocs := testing.AllocsPerRun(200, func() {
		if granted, err := tariff.Reserve(r, costs); err != nil || granted != 700 {
			t.Fatalf("Reserve() = %d, %v, want the default output", granted, err)
		}
		if _, err := tariff.Settle(r, u, costs, used); err != nil {
			t.Fatalf("Settle() = %v", err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations, want none", allocs)
	}
}
