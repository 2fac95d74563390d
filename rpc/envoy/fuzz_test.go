// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"testing"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// FuzzShouldRateLimit: every request gets an answer with a status for each descriptor,
// or codes.InvalidArgument if the request as a whole is invalid.
func FuzzShouldRateLimit(f *testing.F) {
	for _, ask := range []string{
		"shop user=a +3; user=root; file=docs/x -1", "shop user=a 5/10xminute", "any bucketring.key=a bucketring.mode=charge bucketring.dimension=tokens +7",
		"shop quota=a; quota=b; soft=c +18446744073709551615", " ", "shop",
	} {
		b, err := proto.Marshal(request(ask))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r rls.RateLimitRequest
		if proto.Unmarshal(b, &r) != nil {
			return
		}
		w := newWorld(t, testRules, func(o *Options) { o.Headers, o.Body, o.Metadata = "RateLimit", BodyAnthropic, true })
		got, err := w.ShouldRateLimit(t.Context(), &r)
		switch {
		case err != nil:
			if grpcstatus.Code(err) != codes.InvalidArgument || r.GetDomain() != "" && len(r.GetDescriptors()) > 0 && len(r.GetDescriptors()) <= 1024 {
				t.Fatalf("ShouldRateLimit(%v) = %v, want an answer", &r, err)
			}
		case len(got.GetStatuses()) != len(r.GetDescriptors()):
			t.Fatalf("ShouldRateLimit(%v) has %d statuses, want one for each descriptor", &r, len(got.GetStatuses()))
		}
		if _, err := proto.Marshal(got); err != nil {
			t.Fatalf("the answer to %v cannot be sent: %v", &r, err)
		}
	})
}
