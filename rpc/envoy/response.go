// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"strconv"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

// response builds the response. The request is over its limit if all its quotas are, or
// if any other descriptor is.
func (ev *evaluation) response() *rls.RateLimitResponse {
	r := &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK}
	overLimit := false
	quotas, exhausted := 0, 0
	for i := range ev.descriptors {
		d := &ev.descriptors[i]
		ev.service.metrics.countKind(ev.rules, ev.request.GetDomain(), d.kind)
		d.setCode()
		r.Statuses = append(r.Statuses, &d.status)
		if d.isQuota() {
			quotas++
			if d.exceeded {
				exhausted++
			}
		} else {
			overLimit = overLimit || d.exceeded
		}
	}
	noQuota := quotas > 0 && exhausted == quotas
	overLimit = overLimit || noQuota
	ev.markCauses(noQuota)
	o := &ev.service.options
	if overLimit && o.Shadow {
		ev.service.metrics.shadowed.Inc()
		overLimit = false
	}
	if overLimit {
		r.OverallCode = rls.RateLimitResponse_OVER_LIMIT
	}
	if o.Headers != "" {
		ev.addHeaders(r, overLimit)
	}
	if overLimit {
		ev.addBody(r)
	}
	if o.Metadata {
		r.DynamicMetadata = ev.metadata()
	}
	return r
}

// setCode completes the status.
func (d *descriptor) setCode() {
	d.status.Code = rls.RateLimitResponse_OK
	switch d.kind {
	case kindUnlimited:
		d.status.LimitRemaining = maxUint32
	case kindRejected:
		d.exceeded = true
	}
	if d.exceeded {
		d.status.Code = rls.RateLimitResponse_OVER_LIMIT
	}
}

func (d *descriptor) isQuota() bool { return d.kind == kindRule && d.rule.Quota }

// markCauses marks the descriptors that put the request over its limit: each one over
// its limit that is not a quota and, if all quotas are exhausted, the quota that resets
// first, since that one is enough.
func (ev *evaluation) markCauses(noQuota bool) {
	var first *descriptor
	for i := range ev.descriptors {
		d := &ev.descriptors[i]
		switch {
		case !d.exceeded:
		case !d.isQuota():
			d.cause = true
		case noQuota && (first == nil || d.reset() < first.reset()):
			first = d
		}
	}
	if first != nil {
		first.cause = true
	}
}

// reset is the time until the limit resets, in seconds.
func (d *descriptor) reset() int64 { return d.status.GetDurationUntilReset().GetSeconds() }

// headerDescriptor returns the descriptor that the headers are about: of the causes
// the one with the longest wait or, without a cause, the one with the least left. It is
// nil if no descriptor has a limit.
func (ev *evaluation) headerDescriptor() (best *descriptor) {
	for i := range ev.descriptors {
		d := &ev.descriptors[i]
		if d.status.GetCurrentLimit() == nil {
			continue
		}
		switch {
		case best == nil, d.cause && !best.cause:
			best = d
		case d.cause != best.cause:
		case d.cause && d.reset() > best.reset(),
			!d.cause && d.status.GetLimitRemaining() < best.status.GetLimitRemaining():
			best = d
		}
	}
	return best
}

// retrySeconds returns the seconds until no cause is over its limit, at least 1. It is
// false if waiting does not help.
func (ev *evaluation) retrySeconds() (seconds int64, ok bool) {
	seconds = 1
	for i := range ev.descriptors {
		if d := &ev.descriptors[i]; d.cause {
			if d.noRetry {
				return 0, false
			}
			seconds = max(seconds, d.reset())
		}
	}
	return seconds, true
}

// addHeaders adds the headers of the limit and, if the request is over it, Retry-After.
func (ev *evaluation) addHeaders(r *rls.RateLimitResponse, overLimit bool) {
	prefix := ev.service.options.Headers
	if d := ev.headerDescriptor(); d != nil {
		r.ResponseHeadersToAdd = append(
			r.ResponseHeadersToAdd,
			header(prefix+"-Limit", int64(d.status.GetCurrentLimit().GetRequestsPerUnit())),
			header(prefix+"-Remaining", int64(d.status.GetLimitRemaining())),
			header(prefix+"-Reset", d.status.GetDurationUntilReset().GetSeconds()),
		)
	}
	if overLimit {
		ev.addRetryAfter(r)
	}
}

// addRetryAfter adds Retry-After if waiting helps.
func (ev *evaluation) addRetryAfter(r *rls.RateLimitResponse) {
	if seconds, ok := ev.retrySeconds(); ok {
		r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd, header("Retry-After", seconds))
	}
}

func header(name string, value int64) *core.HeaderValue {
	return &core.HeaderValue{Key: name, Value: strconv.FormatInt(value, 10)}
}
