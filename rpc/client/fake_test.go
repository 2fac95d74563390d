// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// fake is a cluster in one process. Its nodes share what they have charged, and can
// be killed, restarted and made to misbehave. Connections are in memory, so that it
// works in a synctest bubble.
type fake struct {
	nodes     map[string]*fakeNode // by name, which is also an address
	plaintext bool                 // for loopback addresses only
	// reserve makes the answer to a reserve; nil: all that is asked for.
	reserve func(*pb.ReserveRequest) *pb.Decision
	check   func(*pb.CheckRequest) *pb.Decision // as reserve
	// lend makes the slice for a check that takes one; nil: none.
	lend func(*fakeNode, *pb.CheckRequest, *pb.Decision) *pb.Slice

	mu struct {
		sync.Mutex
		charges map[string]bool     // by request id
		owner   func(string) string // of a key; nil: whoever is asked
	}
}

// fakeNode is one member. It answers with behave, if that is set.
type fakeNode struct {
	pb.UnimplementedRateLimiterServer
	cluster *fake
	name    string
	address string // as a member

	mu struct {
		sync.Mutex
		ring          *pb.Ring                     // that the node sends; nil: it knows no Watch
		changed       chan struct{}                // closed when ring changes
		watched       int                          // Watch streams so far
		direct        int                          // items of batches
		batch         func(*pb.Batch, *pb.Answers) // changes what a batch is answered
		stop          chan struct{}                // closed by drain
		begin         beginWait                    // of calls that wait; nil: it knows no Wait
		mute          bool                         // takes watchers, and sends nothing
		hidden        bool                         // as a member
		open, dialled int                          // connections, as a member
		ids           []string                     // request ids, in the order of arrival
		requests      []proto.Message
		behave        func(ctx context.Context, n int) error // of the nth request, from 1
		server        *grpc.Server
		listener      *bufconn.Listener
	}
}

// newFake starts a node for each address.
func newFake(addrs ...string) *fake {
	f := &fake{nodes: map[string]*fakeNode{}}
	f.mu.charges = map[string]bool{}
	for _, addr := range addrs {
		f.add(addr)
	}
	return f
}

// add starts one more node.
func (f *fake) add(name string) *fakeNode {
	n := f.node()
	n.name, n.address = name, fmt.Sprintf("10.0.0.%d:6471", len(f.nodes)+1)
	f.nodes[name] = n
	n.start()
	return n
}

// node returns one more member, without a listener.
func (f *fake) node() *fakeNode {
	n := &fakeNode{cluster: f}
	n.mu.changed, n.mu.stop = make(chan struct{}), make(chan struct{})
	return n
}

// find returns the node at an address.
func (f *fake) find(addr string) *fakeNode {
	for name, n := range f.nodes {
		if name == addr || n.address == addr {
			return n
		}
	}
	return nil
}

// dial returns a client for addrs, once it is connected to those that are up.
func (f *fake) dial(t *testing.T, o client.Options, addrs ...string) *client.Client {
	t.Helper()
	o.Insecure = !f.plaintext
	for _, addr := range addrs {
		o.Addrs = append(o.Addrs, "passthrough:///"+addr)
	}
	o.DialOptions = append(o.DialOptions, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		n := f.find(addr)
		if n == nil {
			return nil, errors.New("no route to host")
		}
		return n.dial(ctx, addr)
	}))
	c, err := client.Dial(o)
	if err != nil {
		t.Fatalf("Dial(%v) = %v", o.Addrs, err)
	}
	synctest.Wait()
	return c
}

func (f *fake) stop() {
	for _, n := range f.nodes {
		n.kill()
	}
}

// charged returns the request ids that were charged.
func (f *fake) charged() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.mu.charges))
}

func (n *fakeNode) start() {
	server, listener := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second})), bufconn.Listen(64<<10)
	pb.RegisterRateLimiterServer(server, n)
	n.mu.Lock()
	n.mu.server, n.mu.listener = server, listener
	n.mu.Unlock()
	go func() { _ = server.Serve(listener) }()
}

func (n *fakeNode) kill() {
	n.mu.Lock()
	server := n.mu.server
	n.mu.Unlock()
	server.Stop()
}

func (n *fakeNode) dial(ctx context.Context, addr string) (net.Conn, error) {
	n.mu.Lock()
	l, hidden := n.mu.listener, n.mu.hidden && addr == n.address
	if addr == n.address {
		n.mu.dialled++
	}
	n.mu.Unlock()
	if hidden {
		return nil, errors.New("no route to host")
	}
	conn, err := l.DialContext(ctx)
	if err != nil || addr != n.address {
		return conn, err
	}
	n.mu.Lock()
	n.mu.open++
	n.mu.Unlock()
	return &countedConn{Conn: conn, closed: sync.OnceFunc(func() {
		n.mu.Lock()
		n.mu.open--
		n.mu.Unlock()
	})}, nil
}

// countedConn reports when it is closed.
type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// connections returns how many connections there are to the address of n as a
// member, and how often one was asked for.
func (n *fakeNode) connections() (open, dialled int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.open, n.mu.dialled
}

// hide makes the address of n as a member unreachable.
func (n *fakeNode) hide() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.hidden = true
}

// behave sets a function that runs before each request takes effect. Its error is the
// answer; after a lostAnswer the request takes effect nevertheless.
func (n *fakeNode) behave(b func(ctx context.Context, nth int) error) {
	n.mu.Lock()
	n.mu.behave = b
	n.mu.Unlock()
}

// seen returns the request ids that the node was sent.
func (n *fakeNode) seen() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.mu.ids)
}

// sent returns the requests that the node was sent.
func (n *fakeNode) sent() []proto.Message {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.mu.requests)
}

// lostAnswer is a failure after the request took effect.
type lostAnswer struct{ error }

// silent never answers.
func silent(ctx context.Context, _ int) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

// always answers with a status of that code.
func always(code codes.Code) func(context.Context, int) error {
	return failWith(status.New(code, "from always"))
}

func failWith(s *status.Status) func(context.Context, int) error {
	return func(context.Context, int) error { return s.Err() }
}

// handle records a request, calls behave, and charges once per id.
func (n *fakeNode) handle(ctx context.Context, id string, req proto.Message) (replayed bool, err error) {
	n.mu.Lock()
	n.mu.ids = append(n.mu.ids, id)
	n.mu.requests = append(n.mu.requests, req)
	nth, behave := len(n.mu.ids), n.mu.behave
	n.mu.Unlock()
	if behave != nil {
		err = behave(ctx, nth)
	}
	lost, isLost := errors.AsType[lostAnswer](err)
	if err != nil && !isLost {
		return false, err
	}
	f := n.cluster
	f.mu.Lock()
	defer f.mu.Unlock()
	replayed = f.mu.charges[id]
	f.mu.charges[id] = true
	return replayed, lost.error
}

func (n *fakeNode) Check(ctx context.Context, r *pb.CheckRequest) (*pb.Decision, error) {
	replayed, err := n.handle(ctx, r.GetRequestId(), r)
	if err != nil {
		return nil, err
	}
	d := &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: r.GetRequestId(), Route: pb.Route_ROUTE_LOCAL}
	if n.cluster.check != nil {
		d = n.cluster.check(r)
	}
	d.Replayed = replayed
	return d, nil
}

func (n *fakeNode) Reserve(ctx context.Context, r *pb.ReserveRequest) (*pb.Decision, error) {
	replayed, err := n.handle(ctx, r.GetRequestId(), r)
	if err != nil {
		return nil, err
	}
	d := &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: r.GetRequestId(), GrantedOutputTokens: new(r.GetMaxOutputTokens())}
	if n.cluster.reserve != nil {
		d = n.cluster.reserve(r)
	}
	d.Replayed = replayed
	return d, nil
}

func (n *fakeNode) Settle(ctx context.Context, r *pb.SettleRequest) (*pb.Settlement, error) {
	if _, err := n.handle(ctx, r.GetRequestId(), r); err != nil {
		return nil, err
	}
	held := pb.ReservationStatus_RESERVATION_STATUS_HELD
	if r.GetFinal() {
		held = pb.ReservationStatus_RESERVATION_STATUS_SETTLED
	}
	return &pb.Settlement{RequestId: r.GetRequestId(), Status: held}, nil
}

func (n *fakeNode) Cancel(ctx context.Context, r *pb.CancelRequest) (*pb.Settlement, error) {
	if _, err := n.handle(ctx, r.GetRequestId(), r); err != nil {
		return nil, err
	}
	return &pb.Settlement{RequestId: r.GetRequestId(), Status: pb.ReservationStatus_RESERVATION_STATUS_CANCELLED}, nil
}

func (n *fakeNode) Peek(ctx context.Context, r *pb.PeekRequest) (*pb.PeekResponse, error) {
	if _, err := n.handle(ctx, "", r); err != nil {
		return nil, err
	}
	return &pb.PeekResponse{Tier: "free"}, nil
}
