// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"math"
	"net/http"
	"strconv"

	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/pb"
)

// HotKeys is the answer to hotkeys. Rates are checks and reserves per second.
type HotKeys struct {
	Keys        []HotKey     `json:"keys"`
	Rate        float64      `json:"rate"` // of all keys, with what is decided from slices
	SliceRate   float64      `json:"slice_rate"`
	Members     []MemberRate `json:"members"`
	Unreachable []string     `json:"unreachable,omitempty"` // their keys are missing
	Waiting     *Waiting     `json:"waiting,omitempty"`
}

// Waiting is what waits for limits.
type Waiting struct {
	WaitingCalls
	Limits []WaitingLimit `json:"limits"` // at which most calls wait
}

// WaitingCalls is how many calls wait, by class.
type WaitingCalls struct {
	Interactive int64 `json:"interactive"`
	Standard    int64 `json:"standard"`
	Batch       int64 `json:"batch"`
}

// Total returns how many calls wait, of all classes.
func (w WaitingCalls) Total() int64 { return w.Interactive + w.Standard + w.Batch }

// WaitingLimit is a limit at which calls wait. See [pb.WaitingLimit].
type WaitingLimit struct {
	Scope     string `json:"scope"`
	Name      string `json:"name"`
	Dimension string `json:"dimension"`
	Model     string `json:"model,omitempty"`
	Owner     string `json:"owner"`
	WaitingCalls
	LongestMillis int64 `json:"longest_ms"` // how long the call waits that has waited longest
}

func waitingOf(r *pb.HotKeysResponse) *Waiting {
	w := &Waiting{Limits: []WaitingLimit{}}
	for _, m := range r.GetMembers() {
		c := callsOf(m.GetWaiting())
		w.Interactive += c.Interactive
		w.Standard += c.Standard
		w.Batch += c.Batch
	}
	for _, l := range r.GetWaiting() {
		w.Limits = append(w.Limits, WaitingLimit{
			Scope: l.GetScope(), Name: l.GetName(), Dimension: l.GetDimension(), Model: l.GetModel(), Owner: l.GetOwner(),
			WaitingCalls: callsOf(l.GetCalls()), LongestMillis: l.GetLongest().AsDuration().Milliseconds(),
		})
	}
	return w
}

func callsOf(c *pb.WaitingCalls) WaitingCalls {
	return WaitingCalls{Interactive: c.GetInteractive(), Standard: c.GetStandard(), Batch: c.GetBatch()}
}

// HotKey is a key for which the cluster decides often. See [pb.HotKey].
type HotKey struct {
	Key       string     `json:"key"`
	Owner     string     `json:"owner"`
	Rate      float64    `json:"rate"`
	RateError float64    `json:"rate_error"`
	SliceRate float64    `json:"slice_rate"` // the part of Rate that is decided from slices
	Share     float64    `json:"share"`      // of Rate of all keys, from 0 to 1
	Tier      string     `json:"tier,omitempty"`
	Model     string     `json:"model,omitempty"`
	Limit     *limitJSON `json:"limit,omitempty"` // with the smallest share left
	Askers    []Asker    `json:"askers"`
	Slices    int32      `json:"slices"` // that are lent
	Holders   []Holder   `json:"holders"`
}

// Holder is a member or a client that holds slices of a key.
type Holder struct {
	Member string  `json:"member,omitempty"`
	Client string  `json:"client,omitempty"` // its address
	Slices int32   `json:"slices"`
	Rate   float64 `json:"rate"` // of the calls that it decides from slices
}

// Asker is a member or a client from which calls for a key come to its owner.
type Asker struct {
	Member string  `json:"member,omitempty"`
	Client string  `json:"client,omitempty"` // its address
	Rate   float64 `json:"rate"`
}

// MemberRate is how often a member decides.
type MemberRate struct {
	Member    string  `json:"member"`
	Rate      float64 `json:"rate"`
	SliceRate float64 `json:"slice_rate"` // of the calls that others decide from its slices
	Sampling  int32   `json:"sampling"`   // one call of so many is counted
}

// HotKeysOf converts r to the form of JSON.
func HotKeysOf(r *pb.HotKeysResponse) HotKeys {
	h := HotKeys{Keys: []HotKey{}, Members: []MemberRate{}, Unreachable: r.GetUnreachable(), Waiting: waitingOf(r)}
	total, fromSlices := 0.0, 0.0
	for _, m := range r.GetMembers() {
		total += m.GetRate() + m.GetSliceRate()
		fromSlices += m.GetSliceRate()
		h.Members = append(h.Members, MemberRate{Member: m.GetMember(), Rate: tenths(m.GetRate()), SliceRate: tenths(m.GetSliceRate()), Sampling: m.GetSampling()})
	}
	h.Rate, h.SliceRate = tenths(total), tenths(fromSlices)
	for _, k := range r.GetKeys() {
		key := HotKey{
			Key: k.GetKey(), Owner: k.GetOwner(), Rate: tenths(k.GetRate()), RateError: tenths(k.GetRateError()), SliceRate: tenths(k.GetSliceRate()),
			Tier: k.GetTier(), Model: k.GetModel(), Askers: []Asker{}, Slices: k.GetSlices(), Holders: []Holder{},
		}
		if total > 0 {
			key.Share = math.Round(min(1, k.GetRate()/total)*1000) / 1000
		}
		if l := k.GetLimit(); l != nil {
			key.Limit = new(limitOf(l))
		}
		for _, a := range k.GetAskers() {
			key.Askers = append(key.Askers, Asker{Member: a.GetMember(), Client: a.GetClient(), Rate: tenths(a.GetRate())})
		}
		for _, s := range k.GetHolders() {
			key.Holders = append(key.Holders, Holder{Member: s.GetMember(), Client: s.GetClient(), Slices: s.GetSlices(), Rate: tenths(s.GetRate())})
		}
		h.Keys = append(h.Keys, key)
	}
	return h
}

// tenths rounds a rate to one decimal.
func tenths(rate float64) float64 { return math.Round(rate*10) / 10 }

// hotKeys answers for which keys the cluster decides most often.
func (a *api) hotKeys(w http.ResponseWriter, r *http.Request) error {
	var limit string
	if err := readQuery(r.URL.RawQuery, []field{{"limit", &limit}}); err != nil {
		return err
	}
	var q pb.HotKeysRequest
	if limit != "" {
		n, err := strconv.ParseInt(limit, 10, 32)
		if err != nil {
			return invalid("limit", "must be a whole number, got "+text.Quote(limit))
		}
		q.Limit = int32(n)
	}
	found, err := a.service.HotKeys(r.Context(), &q)
	if err != nil {
		return err
	}
	a.write(w, http.StatusOK, HotKeysOf(found))
	return nil
}
