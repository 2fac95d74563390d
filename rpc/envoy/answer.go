// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"strconv"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

// answer puts the statuses together. The request is over if a descriptor is that
// counts by itself, or if all those are that are quotas.
func (q *question) answer() *rls.RateLimitResponse {
	r := &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK}
	refused := false
	quotas, spent := 0, 0
	for i := range q.descriptors {
		d := &q.descriptors[i]
		q.service.metrics.kind(q.rules, q.request.GetDomain(), d.kind)
		d.finish()
		r.Statuses = append(r.Statuses, &d.status)
		if d.quota() {
			quotas++
			if d.exceeded {
				spent++
			}
		} else {
			refused = refused || d.exceeded
		}
	}
	empty := quotas > 0 && spent == quotas
	refused = refused || empty
	q.blame(empty)
	o := &q.service.options
	if refused && o.Shadow {
		q.service.metrics.shadowed.Inc()
		refused = false
	}
	if refused {
		r.OverallCode = rls.RateLimitResponse_OVER_LIMIT
	}
	if o.Headers != "" {
		q.headers(r, refused)
	}
	if refused {
		q.body(r)
	}
	if o.Metadata {
		r.DynamicMetadata = q.metadata()
	}
	return r
}

// finish completes the status with what the kind alone decides.
func (d *descriptor) finish() {
	d.status.Code = rls.RateLimitResponse_OK
	switch d.kind {
	case kindUnlimited:
		d.status.LimitRemaining = maxUint32
	case kindRefused:
		d.exceeded = true
	}
	if d.exceeded {
		d.status.Code = rls.RateLimitResponse_OVER_LIMIT
	}
}

func (d *descriptor) quota() bool { return d.kind == kindRule && d.rule.Quota }

// blame marks what the request is refused for: descriptors that count by
// themselves and, if no quota has any left, the one that will have some first,
// since that is enough.
func (q *question) blame(empty bool) {
	var first *descriptor
	for i := range q.descriptors {
		d := &q.descriptors[i]
		switch {
		case !d.exceeded:
		case !d.quota():
			d.blamed = true
		case empty && (first == nil || d.reset() < first.reset()):
			first = d
		}
	}
	if first != nil {
		first.blamed = true
	}
}

// reset is the time until the status is another, in seconds.
func (d *descriptor) reset() int64 { return d.status.GetDurationUntilReset().GetSeconds() }

// nearest returns the descriptor that the headers are about: of those to blame
// the one that needs the longest wait, else the one with the least left. Nil: none
// has a limit.
func (q *question) nearest() (best *descriptor) {
	for i := range q.descriptors {
		d := &q.descriptors[i]
		if d.status.GetCurrentLimit() == nil {
			continue
		}
		switch {
		case best == nil, d.blamed && !best.blamed:
			best = d
		case d.blamed != best.blamed:
		case d.blamed && d.reset() > best.reset(),
			!d.blamed && d.status.GetLimitRemaining() < best.status.GetLimitRemaining():
			best = d
		}
	}
	return best
}

// wait returns the seconds until every descriptor that is to blame may pass, at
// least 1. It is false if waiting does not help one of them.
func (q *question) wait() (seconds int64, ok bool) {
	seconds = 1
	for i := range q.descriptors {
		if d := &q.descriptors[i]; d.blamed {
			if d.final {
				return 0, false
			}
			seconds = max(seconds, d.reset())
		}
	}
	return seconds, true
}

// headers tells what is left and, if refused, when to come back.
func (q *question) headers(r *rls.RateLimitResponse, refused bool) {
	prefix := q.service.options.Headers
	if d := q.nearest(); d != nil {
		r.ResponseHeadersToAdd = append(
			r.ResponseHeadersToAdd,
			header(prefix+"-Limit", int64(d.status.GetCurrentLimit().GetRequestsPerUnit())),
			header(prefix+"-Remaining", int64(d.status.GetLimitRemaining())),
			header(prefix+"-Reset", d.status.GetDurationUntilReset().GetSeconds()),
		)
	}
	if refused {
		q.retryAfter(r)
	}
}

// retryAfter is added once.
func (q *question) retryAfter(r *rls.RateLimitResponse) {
	if wait, ok := q.wait(); ok {
		r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd, header("Retry-After", wait))
	}
}

func header(name string, value int64) *core.HeaderValue {
	return &core.HeaderValue{Key: name, Value: strconv.FormatInt(value, 10)}
}
