// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/cluster/simnet"
)

// sim runs memberlist in virtual time, on a network in memory. A synctest bubble
// cannot advance its clock while a goroutine waits for a mutex. That is no
// problem here: no mutex is held while sleeping, except for two of memberlist's
// around Leave and Shutdown, which only one goroutine at a time uses.
type sim struct {
	t     *testing.T
	net   *simnet.Network
	nodes []*simNode
}

type simNode struct {
	*Cluster
	t      *testing.T
	addr   netip.AddrPort
	log    *syncBuffer
	cancel context.CancelFunc
	ran    chan error // what Run returned, once; cap 1
}

// simulate runs f in a bubble, on a network with a millisecond of delay.
func simulate(t *testing.T, f func(t *testing.T, s *sim)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &sim{t: t, net: simnet.New(1, simnet.Link{Delay: time.Millisecond})}
		defer func() {
			for _, n := range s.nodes {
				n.crash()
			}
			time.Sleep(time.Minute) // so that goroutines of memberlist end inside of the bubble
		}()
		f(t, s)
	})
}

func host(i int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:6472", i)) }

// boot starts a node on host i. Its seeds are hosts 1 to 3.
func (s *sim) boot(name string, i int, change func(*Options)) *simNode {
	s.t.Helper()
	n := &simNode{t: s.t, addr: host(i), log: &syncBuffer{}, ran: make(chan error, 1)}
	o := Options{
		Name: name, Boot: Boot{ID: ID(1000*i + len(s.nodes)), Started: time.Now()},
		GRPC: 6471, Ring: 7, Policy: 70,
		Seeds:     []string{"10.0.0.1:6472", "10.0.0.2", "10.0.0.3:6472"},
		Transport: s.net.Transport(n.addr),
		Logger:    slog.New(slog.NewTextHandler(n.log, nil)),
	}
	if change != nil {
		change(&o)
	}
	var err error
	if n.Cluster, err = New(o); err != nil {
		s.t.Fatal(err)
	}
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(s.t.Context())
	go func() { n.ran <- n.Run(ctx) }()
	s.nodes = append(s.nodes, n)
	if err := n.SetState(Serving); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// bootAll starts nodes node-1 to node-count and waits until all serve in all views.
func (s *sim) bootAll(count int) []*simNode {
	s.t.Helper()
	var names []string
	for i := 1; i <= count; i++ {
		names = append(names, fmt.Sprintf("node-%d", i))
		s.boot(names[i-1], i, nil)
	}
	slices.Sort(names)
	s.await(10*time.Second, s.nodes, names...)
	return s.nodes
}

// await waits until all nodes see exactly these members serving, and returns how
// long it took.
func (s *sim) await(atMost time.Duration, nodes []*simNode, names ...string) time.Duration {
	s.t.Helper()
	return s.until(atMost, func() bool {
		for _, n := range nodes {
			if !slices.Equal(n.View().Serving(), names) {
				return false
			}
		}
		return true
	}, nodes...)
}

func (s *sim) until(atMost time.Duration, ok func() bool, nodes ...*simNode) time.Duration {
	s.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) >= atMost {
			for _, n := range nodes {
				s.t.Logf("%s: view %d, serving %v\n%s", n.options.Name, n.View().Number, n.View().Serving(), n.log)
			}
			s.t.Fatalf("condition is not met after %s", atMost)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// crash ends a node without an announcement.
func (n *simNode) crash() {
	n.cancel()
	<-n.done
}

// fate returns how a boot departed, or 0 if it is not among the departed.
func (n *simNode) fate(boot ID) Fate {
	for _, d := range n.View().Departed {
		if d.Boot.ID == boot {
			return d.Fate
		}
	}
	return 0
}

// syncBuffer is a log that can be read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *syncBuffer) count(s string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Count(b.buf.Bytes(), []byte(s))
}
