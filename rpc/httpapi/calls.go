// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

func (a *api) check(w http.ResponseWriter, r *http.Request) error {
	var q pb.CheckRequest
	if err := a.readBody(w, r, []field{
		{"key", &q.Key},
		{"tier", &q.Tier},
		{"model", &q.Model},
		{"requests", &q.Requests},
		{"input_tokens", &q.InputTokens},
		{"output_tokens", &q.OutputTokens},
		{"costs", &q.Costs},
		{"service_tier", &q.ServiceTier},
		{"max_wait_seconds", &q.MaxWait},
		{"priority", &q.Priority},
		{"request_id", &q.RequestId},
	}); err != nil {
		return err
	}
	mayWait(w)
	d, err := a.service.Check(r.Context(), &q)
	answered(w)
	if err != nil {
		return err
	}
	a.writeDecision(w, d, q.Model, q.MaxWait)
	return nil
}

func (a *api) reserve(w http.ResponseWriter, r *http.Request) error {
	var q pb.ReserveRequest
	if err := a.readBody(w, r, []field{
		{"key", &q.Key},
		{"tier", &q.Tier},
		{"model", &q.Model},
		{"requests", &q.Requests},
		{"input_tokens", &q.InputTokens},
		{"max_output_tokens", &q.MaxOutputTokens},
		{"min_output_tokens", &q.MinOutputTokens},
		{"estimated_input", &q.EstimatedInput},
		{"known_input_tokens", &q.KnownInputTokens},
		{"n", &q.N},
		{"costs", &q.Costs},
		{"service_tier", &q.ServiceTier},
		{"ttl_seconds", &q.TtlSeconds},
		{"max_wait_seconds", &q.MaxWait},
		{"priority", &q.Priority},
		{"request_id", &q.RequestId},
	}); err != nil {
		return err
	}
	mayWait(w)
	d, err := a.service.Reserve(r.Context(), &q)
	answered(w)
	if err != nil {
		return err
	}
	a.writeDecision(w, d, q.Model, q.MaxWait)
	return nil
}

// mayWait lifts the write timeout of the server, which would cut the answer off, for a call
// that may wait in line for longer. The read timeout ends with the body. Answered must be
// called when the call need not wait any more.
func mayWait(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // an error means that the writer has no timeouts
}

func answered(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
}

func (a *api) settle(w http.ResponseWriter, r *http.Request) error {
	var q pb.SettleRequest
	if err := a.readBody(w, r, []field{
		{"key", &q.Key},
		{"request_id", &q.RequestId},
		{"input_tokens", &q.InputTokens},
		{"cached_input_tokens", &q.CachedInputTokens},
		{"cache_write_tokens", &q.CacheWriteTokens},
		{"cache_write_1h_tokens", &q.CacheWrite_1HTokens},
		{"output_tokens", &q.OutputTokens},
		{"images", &q.Images},
		{"searches", &q.Searches},
		{"costs", &q.Costs},
		{"service_tier", &q.ServiceTier},
		{"rejected", &q.Rejected},
		{"final", &q.Final},
	}); err != nil {
		return err
	}
	s, err := a.service.Settle(r.Context(), &q)
	if err != nil {
		return err
	}
	a.writeSettlement(w, s)
	return nil
}

func (a *api) cancel(w http.ResponseWriter, r *http.Request) error {
	var q pb.CancelRequest
	if err := a.readBody(w, r, []field{
		{"key", &q.Key},
		{"request_id", &q.RequestId},
	}); err != nil {
		return err
	}
	s, err := a.service.Cancel(r.Context(), &q)
	if err != nil {
		return err
	}
	a.writeSettlement(w, s)
	return nil
}

func (a *api) limits(w http.ResponseWriter, r *http.Request) error {
	var q pb.PeekRequest
	if err := readQuery(r.URL.RawQuery, []field{
		{"key", &q.Key},
		{"tier", &q.Tier},
		{"model", &q.Model},
	}); err != nil {
		return err
	}
	p, err := a.service.Peek(r.Context(), &q)
	if err != nil {
		return err
	}
	a.writePeek(w, p)
	return nil
}

// readQuery reads a query string into fields: a *string for a parameter that may be
// given once, a *[]string for one that may be repeated.
func readQuery(query string, fields []field) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return invalid("query", err.Error())
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if indexOf(fields, name) < 0 {
			return unknown(name, names(fields))
		}
	}
	for _, f := range fields {
		given := values[f.name]
		list, repeatable := f.to.(*[]string)
		if len(given) > 1 && !repeatable {
			return invalid(f.name, "is given twice")
		}
		for _, value := range given {
			var text string
			if err := takeText(f.name, value, &text); err != nil {
				return err
			}
			if repeatable {
				*list = append(*list, text)
			} else {
				*f.to.(*string) = text
			}
		}
	}
	return nil
}
