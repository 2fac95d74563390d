// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// healTimeout bounds the time from the repair of a fault to one view.
const healTimeout = 20 * time.Second

// member is a node of a cluster with a connection to it.
type member struct {
	name       string
	http, grpc string
	api        pb.RateLimiterClient
	conn       *grpc.ClientConn // of api
}

func newMember(t *testing.T, name, http, grpcAddress string) *member {
	t.Helper()
	m := &member{name: name, http: http, grpc: grpcAddress}
	m.connect(t)
	t.Cleanup(func() {
		if err := m.conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// connect opens a new connection, because after a fault the old one may wait for a
// retransmission of TCP.
func (m *member) connect(t *testing.T) {
	t.Helper()
	if m.conn != nil {
		if err := m.conn.Close(); err != nil {
			t.Error(err)
		}
	}
	var err error
	if m.conn, err = dialPlain(m.grpc); err != nil {
		t.Fatal(err)
	}
	m.api = pb.NewRateLimiterClient(m.conn)
}

func dialPlain(address string) (*grpc.ClientConn, error) {
	backoffConfig := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoffConfig, MinConnectTimeout: time.Second}))
}

// ring returns the current ring of the member, over a new connection.
func (m *member) ring(ctx context.Context) (*pb.Ring, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := dialPlain(m.grpc)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stream, err := pb.NewRateLimiterClient(conn).Watch(ctx, &pb.WatchRequest{})
	if err != nil {
		return nil, err
	}
	return stream.Recv()
}

// bootOf returns the boot id of another member in the ring of m, or 0.
func (m *member) bootOf(ctx context.Context, name string) uint64 {
	ring, err := m.ring(ctx)
	if err != nil {
		return 0
	}
	for _, r := range ring.GetMembers() {
		if r.GetName() == name {
			return r.GetBoot()
		}
	}
	return 0
}

// awaitRestart waits until every other member has a new boot of broken in its ring.
func (ms members) awaitRestart(t *testing.T, broken *member, before uint64) {
	t.Helper()
	for _, m := range ms.but(broken) {
		waittest.Until(t, m.name+" to have the new boot of "+broken.name, func() bool {
			boot := m.bootOf(t.Context(), broken.name)
			return boot != 0 && boot != before
		})
	}
}

// locate returns the owners of keys according to the member.
func (m *member) locate(t *testing.T, keys []string) (owners []string) {
	t.Helper()
	for _, l := range m.locations(t, keys) {
		owners = append(owners, l.GetOwner())
	}
	return owners
}

// locations returns where keys are, as the member knows it.
func (m *member) locations(t *testing.T, keys []string) (located []*pb.Location) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	for chunk := range slices.Chunk(keys, 1024) {
		response, err := m.api.Locate(ctx, &pb.LocateRequest{Keys: chunk})
		if err != nil {
			t.Fatalf("%s: locate %d keys: %v", m.name, len(chunk), err)
		}
		if len(response.GetLocations()) != len(chunk) {
			t.Fatalf("%s located %d keys of %d", m.name, len(response.GetLocations()), len(chunk))
		}
		for i, l := range response.GetLocations() {
			if l.GetKey() != chunk[i] {
				t.Fatalf("%s answered for key %q instead of %q", m.name, l.GetKey(), chunk[i])
			}
			located = append(located, l)
		}
	}
	return located
}

// check checks one request of a key at the member.
func (m *member) check(ctx context.Context, key, tier string) (*pb.Decision, error) {
	return m.api.Check(ctx, &pb.CheckRequest{Key: key, Tier: tier})
}

// members are the nodes of a cluster.
type members []*member

func (ms members) names() []string {
	names := make([]string, len(ms))
	for i, m := range ms {
		names[i] = m.name
	}
	slices.Sort(names)
	return names
}

func (ms members) but(lost *member) members {
	return slices.DeleteFunc(slices.Clone(ms), func(m *member) bool { return m == lost })
}

func (ms members) addresses() []string {
	addresses := make([]string, len(ms))
	for i, m := range ms {
		addresses[i] = m.grpc
	}
	return addresses
}

// oneView returns an error unless all these members see the ring of exactly these
// members.
func (ms members) oneView(ctx context.Context) error {
	var digest uint64
	var owners []byte
	for i, m := range ms {
		ring, err := m.ring(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		var names []string
		for _, r := range ring.GetMembers() {
			names = append(names, r.GetName())
		}
		if !slices.Equal(names, ms.names()) {
			return fmt.Errorf("%s sees %v, want %v", m.name, names, ms.names())
		}
		if i == 0 {
			digest = ring.GetDigest()
		}
		if ring.GetDigest() != digest || digest == 0 {
			return fmt.Errorf("%s has ring %x, %s has %x", m.name, ring.GetDigest(), ms[0].name, digest)
		}
		if i == 0 {
			owners = ring.GetOwners()
		}
		if !bytes.Equal(ring.GetOwners(), owners) {
			return fmt.Errorf("%s and %s know of different owners", m.name, ms[0].name)
		}
	}
	return nil
}

// moved returns an error while partitions are on their way to the owners that the ring
// names.
func (ms members) moved(t *testing.T) error {
	for _, m := range ms {
		if r := statusOf(t, m.http).Cluster.Replication; r.WithoutOwner+r.WithoutHeir+r.Copying+r.Moving > 0 {
			return fmt.Errorf("%s: partitions are on their way: %+v", m.name, r)
		}
	}
	return nil
}

// awaitOneView waits until all these members see the ring of exactly these members,
// and returns how long that took.
func (ms members) awaitOneView(t *testing.T, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := ms.oneView(t.Context())
		took := time.Since(began)
		if err == nil {
			err = ms.moved(t)
		}
		if err == nil {
			t.Logf("one view of %v after %v", ms.names(), took.Round(time.Millisecond))
			return took
		}
		if took > within {
			t.Fatalf("after %v there is not one view: %v", took.Round(time.Millisecond), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// keysOf returns n keys that a member owns, each with a root of its own.
func (ms members) keysOf(t *testing.T, owner *member, prefix string, n int) (keys []string) {
	t.Helper()
	return ms.keysApart(t, owner, nil, prefix, n)
}

// keysApart returns n keys that a member owns, and that have another heir than one member,
// each with a root of its own.
func (ms members) keysApart(t *testing.T, owner, apart *member, prefix string, n int) (keys []string) {
	t.Helper()
	asked := ms[0]
	for begin := 0; len(keys) < n; begin += 256 {
		if begin > 1<<16 {
			t.Fatalf("%s owns %d of %d keys, want at least %d", owner.name, len(keys), begin, n)
		}
		candidates := numbered(prefix, begin, 256)
		for i, l := range asked.locations(t, candidates) {
			if l.GetOwner() == owner.name && (apart == nil || l.GetHeir() != apart.name) {
				keys = append(keys, candidates[i])
			}
		}
	}
	return keys[:n]
}

// numbered returns n keys with different roots.
func numbered(prefix string, begin, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s-%d/user", prefix, begin+i)
	}
	return keys
}

// dial returns a client library that knows these members.
func (ms members) dial(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{Addrs: ms.addresses(), Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return c
}
