// SPDX-License-Identifier: Apache-2.0

package await

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Calls are answered in any order, each with its own result.
func TestAnswersOutOfOrder(t *testing.T) {
	bubble(t, 100, func(t *testing.T, a *Asker, l *line, _ *fake, _ chan struct{}) {
		var got answers
		for _, key := range []string{"a", "b", "c"} {
			got.start(t, a, key)
		}
		l.want(t, 3, 0)
		for _, key := range []string{"c", "a", "b"} {
			l.admit(key)
			synctest.Wait()
		}
		got.want(t, 3, nil)
		if want := []string{"c", "a", "b"}; !slices.Equal(got.keys, want) {
			t.Errorf("answers came in the order %v, want %v", got.keys, want)
		}
	})
}

// Calls begin in the order in which they were started.
func TestOrder(t *testing.T) {
	var keys []string
	synctest.Test(t, func(t *testing.T) {
		f := &fake{handle: func(_ int, p *pipe) error {
			return Serve(p, nil, 100, func(item *pb.Item, _ func(*pb.Result)) func() {
				keys = append(keys, item.GetCheck().GetKey())
				return func() {}
			})
		}}
		a := New(f.open)
		defer a.Close()
		var want []string
		for i := range 50 {
			key := fmt.Sprint(i)
			leave := a.Start(item(key), func(*pb.Result, error) {})
			if i%7 == 3 {
				leave() // before it was sent
			} else {
				want = append(want, key)
			}
		}
		synctest.Wait()
		if !slices.Equal(keys, want) {
			t.Errorf("calls began in the order %v, want %v", keys, want)
		}
	})
}

// A call that leaves is not answered, and leaves the line.
func TestLeave(t *testing.T) {
	bubble(t, 100, func(t *testing.T, a *Asker, l *line, _ *fake, _ chan struct{}) {
		var got answers
		leave := got.start(t, a, "a")
		got.start(t, a, "b")
		l.want(t, 2, 0)
		leave()
		leave()
		l.want(t, 1, 1)
		l.admit("b")
		got.want(t, 1, nil)
		if n := a.Waiting(); n != 0 {
			t.Errorf("%d calls wait, want none", n)
		}
	})
}

// An answer that is under way when its call leaves is dropped, and breaks nothing.
func TestLeaveRacesWithAnswer(t *testing.T) {
	bubble(t, 100, func(t *testing.T, a *Asker, l *line, f *fake, _ chan struct{}) {
		var ended, left sync.Map
		var callers sync.WaitGroup
		for i := range 1000 {
			key := fmt.Sprint(i)
			callers.Go(func() {
				leave := a.Start(item(key), func(r *pb.Result, err error) {
					if _, twice := ended.LoadOrStore(key, true); twice || err != nil && !errors.Is(err, ErrFull) {
						t.Errorf("%s: %v, twice: %v", key, err, twice)
					}
				})
				time.Sleep(rand.N(10 * time.Millisecond))
				if rand.N(2) == 0 {
					leave()
					left.Store(key, true)
				}
			})
			callers.Go(func() {
				time.Sleep(rand.N(10 * time.Millisecond))
				l.mu.Lock()
				done := l.waits[key]
				delete(l.waits, key)
				l.mu.Unlock()
				if done != nil {
					done(answerTo(key))
				}
			})
		}
		callers.Wait()
		synctest.Wait()
		waiting, _, _ := l.count()
		if n := a.Waiting(); n != waiting {
			t.Errorf("%d calls wait at the asker and %d in line", n, waiting)
		}
		if opened, running := f.count(); opened != 1 || running != 1 {
			t.Errorf("%d streams were opened and %d are open, want 1", opened, running)
		}
	})
}

// When a stream ends, its calls end with ErrBroken, and the next call opens another.
func TestBrokenStream(t *testing.T) {
	cause := status.Error(codes.Unavailable, "the connection is gone")
	for name, want := range map[string]error{"error": cause, "OK": io.EOF} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, fail := newLine(), make(chan struct{})
				f := &fake{handle: func(n int, p *pipe) error {
					if n > 1 {
						return Serve(p, nil, 100, l.begin)
					}
					_ = Serve(p, fail, 100, newLine().begin)
					if errors.Is(want, io.EOF) {
						return nil
					}
					return want
				}}
				a := New(f.open)
				defer a.Close()
				var first, second answers
				first.start(t, a, "a")
				leave := first.start(t, a, "b")
				synctest.Wait()
				close(fail)
				first.want(t, 2, ErrBroken)
				first.want(t, 2, want)
				if err := first.got["a"]; !MayBeDecided(err) {
					t.Errorf("MayBeDecided(%v) = false, want true: it was sent", err)
				}
				leave() // too late
				second.start(t, a, "c")
				l.want(t, 1, 0)
				l.admit("c")
				second.want(t, 1, nil)
			})
		})
	}
}

// A stream that cannot be opened, or not in time, fails its calls.
func TestOpenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := status.Error(codes.Unimplemented, "unknown method Wait")
		f := &fake{reject: func(int) error { return cause }}
		a := New(f.open)
		defer a.Close()
		_, err := a.Ask(t.Context(), item("a"))
		if !errors.Is(err, ErrBroken) || status.Code(err) != codes.Unimplemented {
			t.Errorf("Ask() = %v, want ErrBroken with the code Unimplemented", err)
		}
		if MayBeDecided(err) {
			t.Errorf("MayBeDecided(%v) = true, want false: it was not sent", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		a := New(func(ctx context.Context) (Stream, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		defer a.Close()
		within(t, openTimeout, func() {
			if _, err := a.Ask(t.Context(), item("a")); !errors.Is(err, ErrBroken) {
				t.Errorf("Ask() = %v, want ErrBroken", err)
			}
		})
	})
}

// Send fails for another reason than that the stream has ended.
func TestSendFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("cannot be encoded")
		f := &fake{handle: func(_ int, p *pipe) error { <-p.ctx.Done(); return p.ctx.Err() }}
		a := New(func(ctx context.Context) (Stream, error) {
			s, err := f.open(ctx)
			return failingSend{s, cause}, err
		})
		defer a.Close()
		if _, err := a.Ask(t.Context(), item("a")); !errors.Is(err, cause) || !errors.Is(err, ErrBroken) {
			t.Errorf("Ask() = %v, want ErrBroken with %v", err, cause)
		}
	})
}

type failingSend struct {
	Stream
	err error
}

func (s failingSend) Send(*pb.WaitMessage) error { return s.err }

// An answer to a call that was never sent breaks the stream.
func TestUnknownAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{handle: func(_ int, p *pipe) error {
			_ = p.Send(&pb.WaitAnswer{Number: 2})
			<-p.ctx.Done()
			return p.ctx.Err()
		}}
		a := New(f.open)
		defer a.Close()
		var got answers
		got.start(t, a, "a")
		got.want(t, 1, ErrBroken)
	})
}

// No more than MaxWaiting calls wait. One that leaves makes room, at both ends.
func TestFull(t *testing.T) {
	bubble(t, MaxWaiting, func(t *testing.T, a *Asker, l *line, _ *fake, _ chan struct{}) {
		var leave func()
		for i := range MaxWaiting {
			leave = a.Start(item(fmt.Sprint(i)), func(*pb.Result, error) {})
		}
		l.want(t, MaxWaiting, 0)
		if _, err := a.Ask(t.Context(), item("above")); !errors.Is(err, ErrFull) {
			t.Errorf("Ask() = %v, want ErrFull", err)
		}
		var got answers
		leave()
		got.start(t, a, "fits")
		l.want(t, MaxWaiting, 1)
		l.admit("fits")
		got.want(t, 1, nil)
	})
}

// Close ends the calls, and those that come later.
func TestClose(t *testing.T) {
	bubble(t, 100, func(t *testing.T, a *Asker, l *line, _ *fake, _ chan struct{}) {
		var got answers
		got.start(t, a, "a")
		leave := got.start(t, a, "b")
		l.want(t, 2, 0)
		a.Close()
		got.want(t, 2, ErrClosed)
		l.want(t, 0, 2)
		leave()
		got.start(t, a, "c")()
		got.want(t, 3, ErrClosed)
		a.Close()
	})
}

// Ask leaves when its context ends.
func TestAsk(t *testing.T) {
	bubble(t, 100, func(t *testing.T, a *Asker, l *line, _ *fake, _ chan struct{}) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		within(t, time.Second, func() {
			if _, err := a.Ask(ctx, item("a")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Ask() = %v, want DeadlineExceeded", err)
			}
		})
		l.want(t, 0, 1)
		if _, err := a.Ask(ctx, item("a")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Ask() = %v, want DeadlineExceeded", err)
		}
		time.AfterFunc(time.Second, func() { l.admit("b") })
		if r, err := a.Ask(t.Context(), item("b")); err != nil || r.GetDecision().GetRequestId() != "b" {
			t.Errorf("Ask() = %v, %v", r, err)
		}
		if _, _, began := l.count(); began != 2 {
			t.Errorf("%d calls began, want 2", began)
		}
	})
}

// A stream on which nothing waits ends after a while, and not before.
func TestIdleStreamEnds(t *testing.T) {
	bubble(t, 100, func(t *testing.T, a *Asker, l *line, f *fake, _ chan struct{}) {
		wantOpen := func(opened, running int) {
			t.Helper()
			synctest.Wait()
			if o, r := f.count(); o != opened || r != running {
				t.Errorf("%d streams were opened and %d are open, want %d and %d", o, r, opened, running)
			}
		}
		wantOpen(0, 0)
		var got answers
		got.start(t, a, "a")
		time.Sleep(time.Hour)
		wantOpen(1, 1)
		l.admit("a")
		synctest.Wait()
		time.Sleep(idleTimeout - 1)
		got.start(t, a, "b")() // it starts anew
		time.Sleep(idleTimeout - 1)
		wantOpen(1, 1)
		time.Sleep(time.Nanosecond)
		wantOpen(1, 0)
		got.start(t, a, "c")
		time.Sleep(time.Minute)
		wantOpen(2, 1)
		l.admit("c")
		got.want(t, 2, nil)
	})
}

// A member that reads nothing blocks no caller, and what waits to be sent is bounded.
func TestMemberThatReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{handle: func(_ int, p *pipe) error { <-p.ctx.Done(); return p.ctx.Err() }}
		a := New(f.open)
		defer a.Close()
		for i := range 100_000 {
			a.Start(item(fmt.Sprint(i)), func(*pb.Result, error) {})()
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		s := a.mu.session
		if len(s.waiting) != 0 || s.unsent.first != nil || s.unsent.last != nil || len(s.leaves) > 1 {
			t.Errorf("%d calls wait and %d leaves, want none", len(s.waiting), len(s.leaves))
		}
	})
}

// One leave goes before all calls that are to be sent.
func TestLeavesGoFirst(t *testing.T) {
	var sent []uint64
	synctest.Test(t, func(t *testing.T) {
		read := make(chan struct{})
		f := &fake{handle: func(_ int, p *pipe) error {
			for {
				m, err := p.Recv()
				if err != nil {
					return err
				}
				if sent = append(sent, m.GetNumber()); m.GetItem() == nil {
					sent[len(sent)-1] += 1000
				}
				<-read
			}
		}}
		a := New(f.open)
		defer a.Close()
		first := a.Start(item("a"), func(*pb.Result, error) {})
		synctest.Wait()
		for range 3 {
			a.Start(item("b"), func(*pb.Result, error) {})
		}
		synctest.Wait() // the second is being sent
		first()
		close(read)
		synctest.Wait()
		if want := []uint64{1, 2, 1001, 3, 4}; !slices.Equal(sent, want) {
			t.Errorf("sent %v, want %v", sent, want)
		}
	})
}
