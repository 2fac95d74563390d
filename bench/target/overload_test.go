// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// overloaded is a node that refuses checks and reserves while it is on.
type overloaded struct {
	pb.UnimplementedRateLimiterServer
	on     atomic.Bool
	err    error
	checks atomic.Int64
}

func newOverloaded() *overloaded {
	return &overloaded{err: server.Overloaded("too much", 2*time.Second)}
}

func (o *overloaded) decide() (*pb.Decision, error) {
	o.checks.Add(1)
	if o.on.Load() {
		return nil, o.err
	}
	return &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: "1"}, nil
}

func (o *overloaded) Check(context.Context, *pb.CheckRequest) (*pb.Decision, error) {
	return o.decide()
}

func (o *overloaded) Reserve(context.Context, *pb.ReserveRequest) (*pb.Decision, error) {
	return o.decide()
}

func (o *overloaded) Settle(context.Context, *pb.SettleRequest) (*pb.Settlement, error) {
	if o.on.Load() {
		return nil, o.err
	}
	return &pb.Settlement{}, nil
}

func (o *overloaded) Peek(context.Context, *pb.PeekRequest) (*pb.PeekResponse, error) {
	return &pb.PeekResponse{}, nil
}

// serveGRPC returns the address of a server.
func serveGRPC(t *testing.T, o *overloaded) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pb.RegisterRateLimiterServer(s, o)
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); served.Wait() })
	return l.Addr().String()
}

// serveHTTP returns the address of a server that answers as a node does.
func serveHTTP(t *testing.T, o *overloaded) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			return
		}
		if strings.HasSuffix(r.URL.Path, "/settle") {
			_, _ = io.WriteString(w, `{"route":"local"}`)
			return
		}
		if _, err := o.decide(); err != nil {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"error":"overloaded","message":"too much"}`)
			return
		}
		_, _ = io.WriteString(w, `{"outcome":"allowed","request_id":"1"}`)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// TestTargetsHoldBackAfterRefusals: refusals have a form of their own; after them few
// calls are sent, and soon after the overload all are again. Settles are never held back.
func TestTargetsHoldBackAfterRefusals(t *testing.T) {
	for name, spec := range map[string]func(*testing.T, *overloaded) string{
		"grpc": func(t *testing.T, o *overloaded) string { return "grpc:" + serveGRPC(t, o) },
		"http": func(t *testing.T, o *overloaded) string { return "http://" + serveHTTP(t, o) },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOverloaded()
			target := open(t, spec(t, o), Options{})
			call := bench.Call{Key: "acme/alice", ID: "1", MaxOutputTokens: 10}
			for range 2000 {
				check(t, target, call) // nothing is held back without refusals
			}
			o.on.Store(true)
			var refused *bench.OverloadedError
			_, err := target.Check(t.Context(), &call)
			if !errors.As(err, &refused) || refused.HeldBack || refused.RetryAfter != 2*time.Second {
				t.Fatalf("Check of an overloaded node = %v, want a refusal that names 2s", err)
			}
			if _, err = target.Reserve(t.Context(), &call); !errors.Is(err, bench.ErrOverloaded) {
				t.Errorf("Reserve of an overloaded node = %v, want a refusal", err)
			}
			sent := o.checks.Load()
			var held int64
			for until := time.Now().Add(time.Second); time.Now().Before(until); {
				_, err := target.Check(t.Context(), &call)
				if !errors.As(err, &refused) {
					t.Fatalf("Check = %v, want a refusal", err)
				}
				if refused.HeldBack {
					held++
				}
				time.Sleep(100 * time.Microsecond)
			}
			if sent = o.checks.Load() - sent; sent > held/2 || sent == 0 {
				t.Errorf("%d calls were sent to an overloaded node, and %d held back, want some and many", sent, held)
			}
			o.on.Store(false)
			for range 100 {
				if _, err := target.Settle(t.Context(), bench.Usage{ID: "1", Key: "acme/alice", Final: true}); err != nil {
					t.Fatalf("Settle while calls are held back = %v", err)
				}
			}
			waittest.Until(t, "100 checks in a row to be sent after the overload", func() bool {
				for range 100 {
					if _, err := target.Check(t.Context(), &call); err != nil {
						return false
					}
				}
				return true
			})
		})
	}
}

func TestRefusalOf(t *testing.T) {
	const why = "too many streams"
	for _, c := range []struct {
		name string
		err  error
		want *bench.OverloadedError
	}{
		{"overloaded", server.Overloaded("too much", 30*time.Millisecond), &bench.OverloadedError{RetryAfter: 30 * time.Millisecond}},
		{"wrapped", fmt.Errorf("check acme: %w", server.Overloaded("too much", time.Second)), &bench.OverloadedError{RetryAfter: time.Second}},
		{"without RetryInfo", status.Error(codes.ResourceExhausted, why), nil},
		{"unavailable", status.Error(codes.Unavailable, why), nil},
		{"no status", errors.New(why), nil},
	} {
		got := refusalOf(c.err)
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: refusalOf = %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestRefusalOfTheLibrary(t *testing.T) {
	refused := fmt.Errorf("check acme: %w", &client.OverloadedError{RetryAfter: time.Second})
	want := bench.OverloadedError{RetryAfter: time.Second}
	if got, ok := clientError(refused, "acme").(*bench.OverloadedError); !ok || *got != want {
		t.Errorf("clientError = %+v, want %+v", got, want)
	}
	if err := clientError(errors.New("check acme: cut off"), "acme"); errors.Is(err, bench.ErrOverloaded) {
		t.Errorf("clientError = %v, want no refusal", err)
	}
}

// outcomes counts the calls that got a connection, were held back, or missed their deadline.
type outcomes struct{ sent, held, late atomic.Int64 }

func (o *outcomes) call(ctx context.Context, c *connections, now int64, hold time.Duration) {
	switch err := c.acquire(ctx, now, false); {
	case err == nil:
		o.sent.Add(1)
		time.Sleep(hold)
		c.release()
	case errors.Is(err, bench.ErrOverloaded):
		o.held.Add(1)
	default:
		o.late.Add(1)
	}
}

func TestBurstsWaitForConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o, start := newConnections(128), &outcomes{}, time.Now()
		for range 3 {
			for range 1100 {
				go o.call(t.Context(), c, int64(time.Since(start)), 10*time.Millisecond)
			}
			time.Sleep(500 * time.Millisecond) // the queue empties within 90 ms
		}
		if o.sent.Load() != 3300 || o.held.Load() != 0 {
			t.Errorf("%d sent, %d held back, want all of three bursts of 1,100", o.sent.Load(), o.held.Load())
		}
	})
}

// At ten times of what the connections carry, those that are sent wait for a short time,
// and the connections stay in use.
func TestStandingQueueOfConnectionsIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o, start := newConnections(100), &outcomes{}, time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var slowest atomic.Int64
		// 100 connections for 10 ms each carry 10 calls a millisecond.
		for ms := range 4000 {
			for range 100 {
				go func() {
					begin := time.Now()
					o.call(ctx, c, int64(begin.Sub(start)), 10*time.Millisecond)
					if ms > 1000 {
						slowest.Store(max(slowest.Load(), int64(time.Since(begin))))
					}
				}()
			}
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if sent := o.sent.Load(); sent < 4000*10*95/100 {
			t.Errorf("%d calls were sent in 4 s, want about 40,000", sent)
		}
		if got := time.Duration(slowest.Load()); got > 20*time.Millisecond {
			t.Errorf("a call took %v after the first second, want at most twice the 10ms of a request", got)
		}
		time.Sleep(2 * time.Second) // the overload has ended
		before := o.held.Load()
		for range 1100 {
			go o.call(ctx, c, int64(time.Since(start)), 10*time.Millisecond)
		}
		time.Sleep(time.Second)
		if held := o.held.Load() - before; held != 0 {
			t.Errorf("%d calls of a burst were held back 2 s after the overload, want none", held)
		}
	})
}

func TestSettlesWaitForConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o, start := newConnections(1), &outcomes{}, time.Now()
		for range 2000 {
			go o.call(t.Context(), c, 0, time.Millisecond)
		}
		synctest.Wait()
		if o.held.Load() == 0 {
			t.Fatal("no call was held back")
		}
		if err := c.acquire(t.Context(), int64(time.Since(start)), true); err != nil {
			t.Errorf("a settle was not sent: %v", err)
		}
		c.release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := c.acquire(ctx, 0, true); err != nil {
			t.Errorf("acquire of the free connection = %v", err)
		}
		if err := c.acquire(ctx, 0, true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("acquire until the deadline = %v", err)
		}
	})
}

// The calls of a target of bare servers are refused by all of them in turns, and never held
// back.
func TestBareServersRefuseEveryCall(t *testing.T) {
	var addrs []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, l.Addr().String())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- ServeBare(ctx, l) }()
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	target, err := OpenBare(addrs, Options{Timeout: waitFor})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	ctx, cancel := context.WithTimeout(t.Context(), waitFor)
	defer cancel()
	if err := Ready(ctx, target); err != nil {
		t.Fatal(err)
	}
	call := bench.Call{Key: "acme/alice", ID: "1", MaxOutputTokens: 10}
	for i := range 500 {
		for name, send := range map[string]func(context.Context, *bench.Call) (bench.Answer, error){"check": target.Check, "reserve": target.Reserve} {
			_, err := send(ctx, &call)
			if refused, ok := errors.AsType[*bench.OverloadedError](err); !ok || refused.HeldBack || refused.RetryAfter == 0 {
				t.Fatalf("%s %d = %v, want a refusal by a server", name, i, err)
			}
		}
	}
	if _, err := target.Settle(ctx, bench.Usage{}); !errors.Is(err, bench.ErrNoReservations) {
		t.Errorf("Settle = %v, want %v", err, bench.ErrNoReservations)
	}
	if _, err := OpenBare([]string{addrs[0], "?"}, Options{}); err == nil {
		t.Error("OpenBare of a wrong address succeeded")
	}
}
