// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/boottime"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// targets is rendezvous hashing.
type targets [][2]string

func newTargets(names []string, partitions int) targets {
	t := make(targets, partitions)
	for p := range t {
		weigh := func(name string) uint64 {
			h := fnv.New64a()
			_, _ = fmt.Fprintf(h, "%s/%d", name, p)
			return h.Sum64() * 0x9e3779b97f4a7c15 >> 8
		}
		sorted := slices.SortedFunc(slices.Values(names), func(a, b string) int {
			if weigh(a) > weigh(b) {
				return -1
			}
			return 1
		})
		copy(t[p][:], sorted)
	}
	return t
}

func (t targets) Owner(p int) string { return t[p][0] }
func (t targets) Heir(p int) string  { return t[p][1] }

// ring returns the targets of some members.
func (c *cluster) ring(names []string) targets {
	key := strings.Join(names, " ")
	if c.rings == nil {
		c.rings = map[string]targets{}
	}
	if c.rings[key] == nil {
		c.rings[key] = newTargets(names, c.partitions)
	}
	return c.rings[key]
}

// member is one boot of a member in a test.
type member struct {
	*Host
	t       testing.TB
	name    string
	state   continuity.MemberState
	engine  *fakeEngine
	limiter *limiter.Engine   // or nil
	proxies map[string]*proxy // to other members, by name
	grpc    *grpc.Server
	gossip  net.Listener
	address Address
	cancel  context.CancelFunc
	stopped sync.Once
	running sync.WaitGroup
	offset  atomic.Int64 // of the clock of the host
	reports atomic.Int64
}

// cluster is a cluster in one process, with a proxy for each pair of members.
type cluster struct {
	t          testing.TB
	partitions int
	protocol   continuity.Options
	keys       [][]byte
	direct     bool // no proxies
	members    map[string]*member
	boots      uint64
	rings      map[string]targets                  // by the names of the members
	changed    func(*member, int, continuity.Role) // may be nil
	prepare    func(*member)                       // before Run; may be nil
	at         map[string]Address                  // of members that do not choose their own
	limiter    bool                                // members have a limiter's engine, and not the fake one
}

func newCluster(t testing.TB, partitions int, names ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, partitions: partitions, protocol: continuity.Defaults(partitions)}
	return c.begin(names...)
}

func (c *cluster) begin(names ...string) *cluster {
	c.t.Helper()
	c.keys, c.members = [][]byte{[]byte("0123456789abcdef")}, map[string]*member{}
	for _, name := range names {
		c.start(name)
	}
	c.show()
	for _, m := range c.members {
		m.Bootstrap(names)
	}
	return c
}

// start starts a member, which others know after show.
func (c *cluster) start(name string) *member {
	c.t.Helper()
	c.boots++
	level := slog.LevelError + 4
	if os.Getenv("REPLICATION_LOG") != "" {
		level = slog.LevelDebug
	}
	m := &member{t: c.t, name: name, state: continuity.Serving, engine: newFakeEngine(c.partitions), proxies: map[string]*proxy{}}
	engine := Engine(m.engine)
	if c.limiter {
		m.limiter = limiter.New(limiter.Options{})
		engine = LimiterEngine(m.limiter, time.LoadLocation)
	}
	machine := boottime.New()
	host, err := New(Options{
		Name: name, Boot: c.boots, Engine: engine, Protocol: c.protocol,
		Now:   func() limiter.Time { return limiter.Time{Mono: time.Now().UnixNano(), Wall: time.Now().UnixNano()} },
		Clock: func() time.Duration { return machine.Now() + time.Duration(m.offset.Load()) },
		Keys:  func() [][]byte { return c.keys },
		Dial:  []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
		Changed: func(partition int, _ continuity.Arrangement, r continuity.Role) {
			if c.changed != nil {
				c.changed(m, partition, r)
			}
		},
		Report: func(r continuity.Repay) { m.reports.Add(1); m.Repaid(r.Partition) },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("self", name),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	m.Host = host
	if c.prepare != nil {
		c.prepare(m)
	}
	at, ok := c.at[name]
	if !ok {
		at = Address{GRPC: "127.0.0.1:0", Gossip: "127.0.0.1:0"}
	}
	l, m2 := listen(c.t, at.GRPC), listen(c.t, at.Gossip)
	m.gossip = m2
	m.address = Address{GRPC: l.Addr().String(), Gossip: m2.Addr().String()}
	m.grpc = grpc.NewServer(grpc.MaxRecvMsgSize(256<<10), grpc.StaticStreamWindowSize(64<<10), grpc.StaticConnWindowSize(1<<20)) // as in a node
	pb.RegisterPeerServer(m.grpc, host.Peer(nil))
	m.running.Go(func() {
		if err := m.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			c.t.Errorf("Serve() of %s = %v", name, err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.running.Go(func() {
		if err := host.Run(ctx); err != nil {
			c.t.Errorf("Run() of %s = %v", name, err)
		}
	})
	c.members[name] = m
	c.t.Cleanup(func() { m.kill() })
	return m
}

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// kill ends a member at once: ports closed, connections broken.
func (m *member) kill() {
	m.stopped.Do(func() {
		_ = m.gossip.Close()
		m.cancel()
		m.grpc.Stop()
		m.running.Wait()
		for _, p := range m.proxies {
			p.close()
		}
	})
}

// show gives all members the view.
func (c *cluster) show() {
	var v continuity.View
	var serving []string
	for name, m := range c.members {
		v.Members = append(v.Members, continuity.Member{ID: m.self, State: m.state})
		if m.state == continuity.Serving {
			serving = append(serving, name)
		}
	}
	slices.SortFunc(v.Members, func(a, b continuity.Member) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(serving)
	v.Targets = c.ring(serving)
	for _, m := range c.members {
		addresses := map[string]Address{}
		for name, o := range c.members {
			if o == m {
				continue
			}
			if c.direct {
				addresses[name] = o.address
				continue
			}
			p := m.proxies[name]
			if p == nil || p.to != o.address.GRPC {
				p = newProxy(c.t, o.address.GRPC)
				m.proxies[name] = p
			}
			addresses[name] = Address{GRPC: p.address(), Gossip: o.address.Gossip}
		}
		m.SetView(v, addresses)
	}
}

// remove kills a member and forgets it: gossip has noticed.
func (c *cluster) remove(name string) {
	c.members[name].kill()
	delete(c.members, name)
}

// cut drops everything between a member and all others, or ends that.
func (c *cluster) cut(name string, cut bool) {
	for _, m := range c.members {
		for to, p := range m.proxies {
			if m.name == name || to == name {
				p.drop.Store(cut)
			}
		}
	}
}

// deciders returns the members that decide for a partition now.
func (c *cluster) deciders(partition int) (who []string) {
	for name, m := range c.members {
		if m.Decides(partition, m.Clock()) {
			who = append(who, name)
		}
	}
	return who
}

// settled reports whether each partition is decided by the member that the ring of the
// live members names, and its heir has a copy.
func (c *cluster) settled() bool {
	var serving []string
	for name, m := range c.members {
		if m.state == continuity.Serving {
			serving = append(serving, name)
		}
	}
	slices.Sort(serving)
	want := c.ring(serving)
	for p := range c.partitions {
		who := c.deciders(p)
		if len(who) != 1 || who[0] != want.Owner(p) {
			return false
		}
		place := c.members[who[0]].Place(p)
		if len(serving) > 1 && place.Heir.Name != want.Heir(p) {
			return false
		}
	}
	for _, m := range c.members {
		s, err := m.Status(context.Background())
		if err != nil || len(serving) > 1 && s.Copying+s.WithoutHeir > 0 || s.WithoutOwner > 0 || !slices.Equal(s.Roster.Names, serving) {
			return false
		}
	}
	return true
}

func (c *cluster) settle() {
	c.t.Helper()
	defer func() {
		if !c.t.Failed() {
			return
		}
		for name, m := range c.members {
			s, err := m.Status(context.Background())
			c.t.Logf("%s: %+v, %v", name, s, err)
			for p := range min(c.partitions, 256) {
				if place := m.Place(p); place.Role != continuity.Active && place.Owner == m.self || place.Owner.IsZero() || place.Heir.IsZero() {
					c.t.Logf("%s: partition %d: %+v", name, p, place)
				}
			}
		}
	}()
	waittest.Until(c.t, "the owners and heirs that the ring names", c.settled)
}

// charge charges an id as a router would: at the owner, waiting for its heir, and again
// elsewhere if that fails. It returns when it is admitted.
func (c *cluster) charge(ctx context.Context, members []*member, partition int, id string) error {
	for {
		for _, m := range members {
			if m.charge(ctx, partition, id) == nil {
				return nil
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("charge %s: %w", id, ctx.Err())
		}
		time.Sleep(100 * time.Microsecond)
	}
}

var errNotOwner = errors.New("not the owner")

func (m *member) charge(ctx context.Context, partition int, id string) error {
	place := m.Place(partition)
	if !m.Decides(partition, m.Clock()) {
		return errNotOwner
	}
	seq, err := m.engine.charge(partition, id, 1)
	if err != nil {
		return err
	}
	m.Changed(partition, m.Waits())
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := m.waitSince(ctx, partition, place.Origin, seq); err != nil {
		return err
	}
	if !m.Decides(partition, m.Clock()) {
		return errNotOwner
	}
	return nil
}

// proxy forwards TCP connections, or drops what they carry.
type proxy struct {
	listener net.Listener
	to       string
	drop     atomic.Bool
	mu       struct {
		sync.Mutex
		conns  []net.Conn
		closed bool
	}
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	p := &proxy{listener: listen(t, "127.0.0.1:0"), to: to}
	go func() {
		for {
			in, err := p.listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				p.reset(in)
				continue
			}
			p.mu.Lock()
			p.mu.conns = append(p.mu.conns, in, out)
			if p.mu.closed {
				_, _ = in.Close(), out.Close()
			}
			p.mu.Unlock()
			go p.forward(in, out)
			go p.forward(out, in)
		}
	}()
	t.Cleanup(p.close)
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// reset ends a connection as one is refused that nobody listens for. The proxy ends, too:
// there is nobody any more.
func (p *proxy) reset(in net.Conn) {
	_ = in.Close()
	p.close()
}

func (p *proxy) forward(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		for p.drop.Load() { // the bytes of a stream cannot be dropped, but be late for ever
			time.Sleep(time.Millisecond)
			if p.ended() {
				return
			}
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.closed
}

func (p *proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.closed = true
	_ = p.listener.Close()
	for _, c := range p.mu.conns {
		_ = c.Close()
	}
}

// waitSince waits as [Host.Replicate] does, for one change that was announced before.
func (h *Host) waitSince(ctx context.Context, partition int, origin, seq uint64) error {
	if h.covered(partition, origin, seq) {
		return nil
	}
	one := []Awaited{{Partition: partition, Origin: origin, Seq: seq}}
	h.wait(ctx, one)
	return one[0].Err
}

// waitOwn is waitSince for a change that was made at the present place of the partition.
func (h *Host) waitOwn(ctx context.Context, partition int, seq uint64) error {
	return h.waitSince(ctx, partition, h.Place(partition).Origin, seq)
}
