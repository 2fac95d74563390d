// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"errors"
	"io"
	"net/http"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/bucketring/bucketring/rpc/server"
)

// maxJSON is the largest body of a request, as that of the other APIs.
const maxJSON = 1 << 20

// HTTP returns a handler of the paths that envoyproxy/ratelimit has at its HTTP ports,
// for probes and for callers without gRPC:
//
//	GET  /healthcheck  200 if ready returns nil and there are rules, 503 otherwise
//	POST /json         a RateLimitRequest in JSON; 200 if it is within its limits, 429 if not
//	GET  /rlconfig     the rules in force, as YAML
func (s *Service) HTTP(ready func() error) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthcheck", func(w http.ResponseWriter, _ *http.Request) {
		err := ready()
		if err == nil && s.Rules() == nil {
			err = errNoRules
		}
		if err != nil {
			http.Error(w, grpcstatus.Convert(err).Message(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "OK")
	})
	m.HandleFunc("POST /json", s.serveJSON)
	m.HandleFunc("GET /rlconfig", func(w http.ResponseWriter, _ *http.Request) {
		rules := s.Rules()
		if rules == nil {
			http.Error(w, grpcstatus.Convert(errNoRules).Message(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "# digest "+rules.Digest()+"\n"+rules.Text())
	})
	return m
}

// serveJSON answers as ShouldRateLimit does. An unknown field is an error, since it
// may be misspelled hits.
func (s *Service) serveJSON(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJSON))
	if err != nil {
		status := http.StatusBadRequest
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "read request: "+err.Error(), status)
		return
	}
	var request rls.RateLimitRequest
	if err := protojson.Unmarshal(text, &request); err != nil {
		http.Error(w, "read request: "+err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := s.ShouldRateLimit(r.Context(), &request)
	if err != nil {
		status := http.StatusServiceUnavailable
		switch {
		case grpcstatus.Code(err) == codes.InvalidArgument:
			status = http.StatusBadRequest
		case server.Describe(err).GetRetryAfterMs() > 0:
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, grpcstatus.Convert(err).Message(), status)
		return
	}
	body, err := protojson.Marshal(answer)
	if err != nil { // impossible: rules and requests are UTF-8
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if answer.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT {
		w.WriteHeader(http.StatusTooManyRequests)
	}
	_, _ = w.Write(body)
}
