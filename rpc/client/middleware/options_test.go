// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// failingLimiter is a limiter that always fails.
type failingLimiter struct{ err error }

func (n failingLimiter) Reserve(context.Context, client.Estimate) (*client.Reservation, error) {
	return nil, n.err
}

func TestOptionsValidate(t *testing.T) {
	_, err := middleware.New(middleware.Options{
		OnDisconnect:     9,
		StreamUsage:      7,
		DrainTimeout:     -1,
		MaxBodyBytes:     -1,
		MinOutputTokens:  -1,
		MaxWait:          new(10*time.Minute + 1),
		Lease:            2 * time.Hour,
		ProgressInterval: 3 * time.Hour,
	})
	want := []string{
		"middleware: identify: must be set",
		"on_disconnect: must be charge_streamed or drain, got DisconnectMode(9)",
		"stream_usage: must be auto, always or never, got StreamUsage(7)",
		"drain_timeout: must not be negative, got -1ns",
		"max_body_bytes: must be between 0 and 1 GiB, got -1",
		"min_output_tokens: must be between 0 and 2^53, got -1",
		"client: must be set",
		"lease: must be between 1s and 1h, got 2h0m0s",
		"progress_interval: must be shorter than the lease of 2h0m0s, got 3h0m0s",
		"max_wait: must be between 0s and 10m, got 10m0.000000001s",
	}
	if err == nil {
		t.Fatal("New() = nil, want an error")
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("New() (-want +got):\n%s", diff)
	}
	_, err = middleware.NewGRPC(middleware.GRPCOptions{Client: failingLimiter{}, MaxWait: new(time.Duration(-1))})
	if want := "middleware: identify: must be set\nestimate: must be set\nmax_wait: must be between 0s and 10m, got -1ns"; err == nil || err.Error() != want {
		t.Errorf("NewGRPC() = %v, want %s", err, want)
	}
}

// Middlewares of a process share their metrics. Other metrics with the same name
// are an error.
func TestRegisterer(t *testing.T) {
	reg := prometheus.NewRegistry()
	o := middleware.Options{Client: failingLimiter{}, Identify: identify, Registerer: reg}
	for range 2 {
		if _, err := middleware.New(o); err != nil {
			t.Errorf("New() = %v", err)
		}
	}
	o.Registerer = prometheus.NewRegistry()
	o.Registerer.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "bucketring_middleware_calls_total", Help: "another"}))
	if _, err := middleware.New(o); err == nil {
		t.Error("New() = nil, want an error")
	}
}

func TestFromContextWithoutCall(t *testing.T) {
	if c, ok := middleware.FromContext(t.Context()); ok || c != nil {
		t.Errorf("FromContext() = %v, %v, want none", c, ok)
	}
	if (&middleware.StatusError{Status: http.StatusForbidden}).Error() != "Forbidden" {
		t.Error("a StatusError without a message does not have the text of its status")
	}
}
