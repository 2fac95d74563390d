// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	controlplane "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	ratelimit "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/envoy/config"
)

const nodeID = "envoy-ai-gateway-ratelimit"

// plane is a control plane: the real server of go-control-plane.
type plane struct {
	t       *testing.T
	cache   cache.SnapshotCache
	address string
	server  *grpc.Server
	ended   chan struct{} // closed when the server has ended

	mu       sync.Mutex
	requests []*discovery.DiscoveryRequest
}

func startPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{t: t, cache: cache.NewSnapshotCache(true, cache.IDHash{}, nil), address: "127.0.0.1:0"}
	p.start()
	t.Cleanup(p.stop)
	return p
}

func (p *plane) start() {
	p.t.Helper()
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.address, p.server, p.ended = l.Addr().String(), grpc.NewServer(), make(chan struct{})
	discovery.RegisterAggregatedDiscoveryServiceServer(p.server, controlplane.NewServer(p.t.Context(), p.cache, controlplane.CallbackFuncs{
		StreamRequestFunc: func(_ int64, r *discovery.DiscoveryRequest) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.requests = append(p.requests, r)
			return nil
		},
	}))
	go func() {
		defer close(p.ended)
		_ = p.server.Serve(l) // ends with stop
	}()
}

func (p *plane) stop() {
	p.server.Stop()
	<-p.ended
}

// serve sets the resources.
func (p *plane) serve(version string, resources ...types.Resource) {
	p.t.Helper()
	s, err := cache.NewSnapshot(version, map[resource.Type][]types.Resource{resource.RateLimitConfigType: resources})
	if err == nil {
		err = p.cache.SetSnapshot(context.Background(), nodeID, s)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// replied returns whether a client has replied to a response with this version and
// problem, "" if it acknowledged.
func (p *plane) replied(version, problem string) func() bool {
	return func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, r := range p.requests {
			if r.GetResponseNonce() != "" && r.GetVersionInfo() == version && strings.Contains(r.GetErrorDetail().GetMessage(), problem) {
				return (problem == "") == (r.GetErrorDetail() == nil)
			}
		}
		return false
	}
}

// runningClient is a client in Run.
type runningClient struct {
	*Client
	mu    sync.Mutex
	rules *config.Config
}

func (f *runningClient) current() *config.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rules
}

func startClient(t *testing.T, address string) *runningClient {
	t.Helper()
	f := &runningClient{}
	c, err := New(Options{
		Address: address, NodeID: nodeID, Backoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
		Credentials: func() (grpc.DialOption, error) {
			return grpc.WithTransportCredentials(insecure.NewCredentials()), nil
		},
		OnRules: func(c *config.Config) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.rules = c
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Client = c
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1) // the result of Run
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	return f
}

// domain is a resource with one rule.
func domain(name, key string, amount uint32) *ratelimit.RateLimitConfig {
	return &ratelimit.RateLimitConfig{Name: name, Domain: name, Descriptors: []*ratelimit.RateLimitDescriptor{{
		Key: key, RateLimit: &ratelimit.RateLimitPolicy{Unit: ratelimit.RateLimitUnit_HOUR, RequestsPerUnit: amount},
	}}}
}

// amount returns the amount of the only rule of a domain, -1 if there is none.
func (f *runningClient) amount(domain string) int64 {
	for _, r := range f.current().Rules() {
		if r.Domain == domain {
			return r.Amount
		}
	}
	return -1
}

func TestRulesFromControlPlane(t *testing.T) {
	p := startPlane(t)
	p.serve("1", domain("a", "k", 1), domain("b", "k", 2))
	f := startClient(t, p.address)
	waittest.Until(t, "first version", func() bool { return f.amount("a") == 1 && f.amount("b") == 2 })
	waittest.Until(t, "acknowledgement", p.replied("1", ""))

	// A version with problems is rejected and changes nothing.
	p.serve("2", domain("a", "", 3), domain("b", "k", 4), domain("c", "k", 5), &ratelimit.RateLimitConfig{Name: "d", Domain: "c"})
	waittest.Until(t, "rejection", p.replied("1", `resource "a": descriptors[0].key: key must not be empty`))
	if !p.replied("1", `domain "c" is defined twice`)() {
		t.Error("the rejection has one problem, want both")
	}
	if f.amount("a") != 1 || f.amount("b") != 2 || f.amount("c") != -1 {
		t.Errorf("after a rejection the rules are %v, want those of version 1", f.current().Rules())
	}
	if s := f.Status(); s.Version != "1" || s.Rejected != 1 || s.Accepted != 1 || !s.Connected || !strings.Contains(s.LastError, "key must not be empty") {
		t.Errorf("Status = %+v, want version 1 and why version 2 was rejected", s)
	}

	// A response replaces all domains.
	p.serve("3", domain("b", "k", 6))
	waittest.Until(t, "version 3", func() bool { return f.amount("b") == 6 && f.amount("a") == -1 })
	if s := f.Status(); s.Version != "3" || s.LastError != "" || s.Accepted != 2 {
		t.Errorf("Status = %+v, want version 3 without an error", s)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := p.requests[0].GetNode().GetId(); got != nodeID {
		t.Errorf("node id = %q, want %q", got, nodeID)
	}
}

func TestControlPlaneUnreachable(t *testing.T) {
	p := startPlane(t)
	p.serve("1", domain("a", "k", 1))
	f := startClient(t, p.address)
	waittest.Until(t, "first version", func() bool { return f.amount("a") == 1 })
	p.stop()
	waittest.Until(t, "failed connections", func() bool { return f.Status().Disconnects >= 3 })
	if s := f.Status(); s.Connected || s.ConnectionError == "" || s.LastError != "" || s.Version != "1" || f.amount("a") != 1 {
		t.Errorf("Status = %+v and limit %d, want the last good rules and a connection error", s, f.amount("a"))
	}
	p.start()
	waittest.Until(t, "connection without a new version", func() bool { return f.Status().Connected })
	if s := f.Status(); s.ConnectionError != "" || s.Version != "1" {
		t.Errorf("Status = %+v, want version 1", s)
	}
	p.serve("2", domain("a", "k", 2))
	waittest.Until(t, "version 2 after the control plane came back", func() bool { return f.amount("a") == 2 })
}

// TestNewerFields: fields that the generated types lack are decoded.
func TestNewerFields(t *testing.T) {
	c := domain("a", "k", 1)
	meta, err := structpb.NewStruct(map[string]any{"plan": "gold"})
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := proto.Marshal(meta)
	if err != nil {
		t.Fatal(err)
	}
	b := protowire.AppendVarint(protowire.AppendTag(nil, fieldQuota, protowire.VarintType), 1)
	b = protowire.AppendBytes(protowire.AppendTag(b, fieldMetadata, protowire.BytesType), encoded)
	b = protowire.AppendVarint(protowire.AppendTag(b, 99, protowire.VarintType), 1)
	d := c.GetDescriptors()[0]
	d.ProtoReflect().SetUnknown(b)
	d.ShadowMode, d.DetailedMetric, d.Value = true, true, "v*"
	d.RateLimit.Unit, d.RateLimit.Name = 7, "weekly"
	d.RateLimit.Replaces = []*ratelimit.RateLimitReplace{{Name: "daily"}}
	c.Descriptors = append(c.GetDescriptors(), &ratelimit.RateLimitDescriptor{
		Key: "outer", Descriptors: []*ratelimit.RateLimitDescriptor{{Key: "inner", RateLimit: &ratelimit.RateLimitPolicy{Unlimited: true}}},
	})
	rules, unknown, err := decode(response(t, c))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`resource "a": descriptors[0]: field 99`}, unknown); diff != "" {
		t.Errorf("unknown fields (-want +got):\n%s", diff)
	}
	got := *rules.Rules()[0]
	if plan := got.Metadata.AsMap()["plan"]; plan != "gold" {
		t.Errorf("metadata %v, want plan gold", got.Metadata)
	}
	got.Metadata = nil
	want := config.Rule{
		Domain: "a", Path: "k", Name: "weekly", Replaces: []string{"daily"}, Amount: 1,
		Window: limiter.Window{Unit: limiter.UnitWeek}, Shadow: true, Quota: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rule (-want +got):\n%s", diff)
	}
	if inner := rules.Rules()[1]; inner.Path != "outer.inner" || !inner.Unlimited {
		t.Errorf("second rule = %+v, want an unlimited outer.inner", inner)
	}
}

func TestBadResponses(t *testing.T) {
	good := response(t, domain("a", "k", 1))
	for name, test := range map[string]struct {
		change func(*discovery.DiscoveryResponse)
		want   string
	}{
		"type":          {func(r *discovery.DiscoveryResponse) { r.TypeUrl = "other" }, "type must be " + TypeURL + ", got other"},
		"resource type": {func(r *discovery.DiscoveryResponse) { r.Resources[0].TypeUrl = "other" }, "resource 0: type must be"},
		"bytes":         {func(r *discovery.DiscoveryResponse) { r.Resources[0].Value = []byte{0xff} }, "resource 0: proto:"},
		"unit": {func(r *discovery.DiscoveryResponse) {
			c := domain("a", "k", 1)
			c.Descriptors[0].RateLimit.Unit = 8
			r.Resources = response(t, c).GetResources()
		}, `resource "a": descriptors[0].rate_limit.unit: unit: must be second`},
		"metadata": {func(r *discovery.DiscoveryResponse) {
			c := domain("a", "k", 1)
			c.Descriptors[0].ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, fieldMetadata, protowire.BytesType), []byte{0xff}))
			r.Resources = response(t, c).GetResources()
		}, `resource "a": descriptors[0]: field 8:`},
	} {
		r := proto.CloneOf(good)
		test.change(r)
		if rules, _, err := decode(r); err == nil || rules != nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: decode = %v, %v, want an error with %q", name, rules, err, test.want)
		}
	}
}

func response(t *testing.T, resources ...types.Resource) *discovery.DiscoveryResponse {
	t.Helper()
	r := &discovery.DiscoveryResponse{TypeUrl: TypeURL, VersionInfo: "1"}
	for _, x := range resources {
		b, err := cache.MarshalResource(x)
		if err != nil {
			t.Fatal(err)
		}
		r.Resources = append(r.Resources, newAny(b))
	}
	return r
}

func newAny(b []byte) *anypb.Any { return &anypb.Any{TypeUrl: TypeURL, Value: b} }
