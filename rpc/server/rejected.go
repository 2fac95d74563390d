// SPDX-License-Identifier: Apache-2.0

package server

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Rejection is why a request was rejected before it became a call. Requests with an
// invalid field are counted as invalid requests too.
type Rejection string

// Reasons for rejections.
const (
	UnknownPath    Rejection = "unknown_path" // of HTTP, method of gRPC, or command of RESP
	WrongMethod    Rejection = "wrong_method" // of HTTP
	WebPage        Rejection = "web_page"     // a call of a page in a browser
	BadMessage     Rejection = "bad_message"  // not JSON, not protobuf, or not RESP
	UnknownField   Rejection = "unknown_field"
	InvalidField   Rejection = "invalid_field"
	TooLarge       Rejection = "too_large"
	TooManyAtOnce  Rejection = "too_many_at_once" // large bodies
	SlowOrCutShort Rejection = "incomplete"       // the body did not arrive
)

var rejections = []Rejection{
	UnknownPath, WrongMethod, WebPage, BadMessage, UnknownField, InvalidField, TooLarge, TooManyAtOnce, SlowOrCutShort,
}

// Names of interfaces in the metric of rejections.
const (
	HTTPInterface  = "http"
	GRPCInterface  = "grpc"
	EnvoyInterface = "envoy_http"
	RESPInterface  = "resp"
)

// Rejections counts rejected requests by interface and reason. A nil Rejections counts
// nothing.
type Rejections struct {
	counters map[string]map[Rejection]prometheus.Counter
}

// NewRejections registers the metric. A nil registry means none.
func NewRejections(reg prometheus.Registerer) *Rejections {
	vec := promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_rejected_requests_total",
		Help: "Requests rejected before they became calls, by interface and reason. Calls with an invalid field are in bucketring_invalid_requests_total, too.",
	}, []string{"interface", "reason"})
	r := &Rejections{counters: map[string]map[Rejection]prometheus.Counter{}}
	for _, name := range []string{HTTPInterface, GRPCInterface, EnvoyInterface, RESPInterface} {
		r.counters[name] = map[Rejection]prometheus.Counter{}
		for _, why := range rejections {
			r.counters[name][why] = vec.WithLabelValues(name, string(why))
		}
	}
	return r
}

// Count counts a rejection at one of the interfaces above. Other reasons than those
// above are not counted.
func (r *Rejections) Count(name string, why Rejection) {
	if r == nil {
		return
	}
	if c := r.counters[name][why]; c != nil {
		c.Inc()
	}
}
