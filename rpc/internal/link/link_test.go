// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

func TestDo(t *testing.T) {
	bubble(t, &fake{handle: answering(0)}, Options{}, func(t *testing.T, l *Link) {
		for i := range 10 {
			key := fmt.Sprint("k", i)
			r, err := l.Do(t.Context(), check(key))
			wantResult(t, key, r, err)
		}
		if got, want := l.Status(), (Status{Connected: true}); got != want {
			t.Errorf("Status() = %+v, want %+v", got, want)
		}
	})
}

func TestBatchContents(t *testing.T) {
	var got []*pb.Batch
	f := &fake{handle: func(_ int, p *pipe) error {
		return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
			got = append(got, b)
			time.Sleep(10 * time.Millisecond)
			return echo(b)
		})
	}}
	bubble(t, f, Options{Ring: func() uint64 { return 77 }}, func(t *testing.T, l *Link) {
		replay := check("a")
		replay.Term, replay.Replay, replay.TimeoutNanos = 9, true, 12345
		first := l.Start(t.Context(), replay)
		synctest.Wait()
		time.Sleep(4 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		second, third := l.Start(t.Context(), check("b")), l.Start(ctx, check("c"))
		for _, p := range []*Pending{first, second, third} {
			if _, err := p.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		a, b, c := check("a"), check("b"), check("c")
		a.Term, a.Replay, a.TimeoutNanos = 9, true, 1e9
		// b and c arrive together: the first one goes at once as a second batch,
		// which is no smaller than the one under way.
		b.TimeoutNanos, c.TimeoutNanos = 1e9, 94e6
		var items []*pb.Item
		for i, batch := range got {
			if batch.GetSequence() != uint64(i+1) || batch.GetRing() != 77 {
				t.Errorf("batch %d has sequence %d and ring %d", i, batch.GetSequence(), batch.GetRing())
			}
			items = append(items, batch.GetItems()...)
		}
		if len(got) == 3 { // c waited for the first answer
			c.TimeoutNanos = 94e6
		} else {
			c.TimeoutNanos = 100e6
		}
		if d := cmp.Diff([]*pb.Item{a, b, c}, items, protocmp.Transform()); d != "" {
			t.Errorf("items (-want +got):\n%s", d)
		}
	})
}

func TestCallsAreBatched(t *testing.T) {
	tests := []struct {
		name    string
		options Options
		calls   int // that come while a batch of one is under way
		key     string
		want    []int // items of batches
	}{
		// One goes at once, another since it is no smaller; the rest gathers.
		{"all that is queued", Options{}, 100, "k", []int{1, 1, 99}},
		{"at most MaxItems", Options{MaxItems: 40}, 100, "k", []int{1, 1, 40, 40, 19}},
		{"at most MaxBytes", Options{MaxBytes: 1000}, 11, strings.Repeat("k", 200), []int{1, 1, 4, 4, 2}},
		{"an item larger than MaxBytes", Options{MaxBytes: 100}, 3, strings.Repeat("k", 200), []int{1, 1, 1, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			var got []int
			o := tt.options
			o.Events.Batch = func(n int) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, n)
			}
			bubble(t, &fake{handle: answering(10 * time.Millisecond)}, o, func(t *testing.T, l *Link) {
				pending := []*Pending{l.Start(t.Context(), check(tt.key))}
				for range tt.calls {
					synctest.Wait()
					pending = append(pending, l.Start(t.Context(), check(tt.key)))
				}
				for _, p := range pending {
					r, err := p.Wait(t.Context())
					wantResult(t, tt.key, r, err)
				}
			})
			if !slices.Equal(got, tt.want) {
				t.Errorf("batches of %v items, want %v", got, tt.want)
			}
		})
	}
}

func TestDeadlines(t *testing.T) {
	tests := []struct {
		name string
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		want error
		took time.Duration
	}{
		{"of the link", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return ctx, func() {}
		}, ErrTimeout, time.Second},
		{"of the caller", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 30*time.Millisecond)
		}, ErrTimeout, 30 * time.Millisecond},
		{"later than the link's", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Minute)
		}, ErrTimeout, time.Second},
		{"that only Deadline knows", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return WithDeadline(ctx, time.Now().Add(70*time.Millisecond)), func() {}
		}, ErrTimeout, 70 * time.Millisecond},
		{"that has passed", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return WithDeadline(ctx, time.Now()), func() {}
		}, ErrTimeout, 0},
		{"passed, by Done", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, -time.Second)
		}, ErrTimeout, 0},
		{"cancelled later", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(20*time.Millisecond, cancel)
			return ctx, cancel
		}, context.Canceled, 20 * time.Millisecond},
		{"cancelled before", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}, context.Canceled, 0},
	}
	deaf := func(_ int, p *pipe) error { <-p.ctx.Done(); return nil }
	members := map[string]func() *fake{
		"frozen":  func() *fake { return &fake{handle: frozen} },
		"deaf":    func() *fake { return &fake{handle: deaf} },
		"no Send": func() *fake { return &fake{handle: deaf, depth: -1} }, // Send blocks
	}
	for name, f := range members {
		for _, tt := range tests {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				bubble(t, f(), Options{}, func(t *testing.T, l *Link) {
					ctx, cancel := tt.ctx(t.Context())
					defer cancel()
					within(t, tt.took, func() {
						r, err := l.Do(ctx, check("k"))
						wantError(t, tt.want, r, err)
					})
				})
			})
		}
	}
}

// Deadlines hold while Open blocks.
func TestDeadlineWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Open: func(ctx context.Context) (Stream, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		defer l.Close()
		within(t, time.Second, func() {
			r, err := l.Do(t.Context(), check("k"))
			wantError(t, ErrTimeout, r, err)
		})
	})
}

// Timeouts after a pause of this process say nothing about the member.
func TestStalledProcessDoesNotOpenTheBreaker(t *testing.T) {
	f := &fake{handle: frozen}
	l := New(Options{Open: f.open, Timeout: 50 * time.Millisecond})
	defer l.Close()
	p := l.Start(t.Context(), check("k"))
	waittest.Until(t, "a batch", func() bool { return l.Status().InFlight > 0 })
	l.mu.Lock() // stands in for a stalled process: the timer is overdue
	waittest.Until(t, "the timer to be overdue", func() bool { return l.stalledLocked(l.now()) })
	l.mu.Unlock()
	r, err := p.Wait(t.Context())
	wantError(t, ErrTimeout, r, err)
	if l.Status().BreakerOpen {
		t.Error("the breaker opened after the process had stalled")
	}
	waittest.Until(t, "the breaker", func() bool { // the member is silent, too
		_, _ = l.Do(t.Context(), check("k"))
		return l.Status().BreakerOpen
	})
}

func TestTimedOutCallsAreNotSent(t *testing.T) {
	var mu sync.Mutex
	var keys []string
	f := &fake{handle: func(_ int, p *pipe) error {
		return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
			for _, item := range b.GetItems() {
				mu.Lock()
				keys = append(keys, item.GetCheck().GetKey())
				mu.Unlock()
			}
			time.Sleep(100 * time.Millisecond)
			return echo(b)
		})
	}}
	bubble(t, f, Options{}, func(t *testing.T, l *Link) {
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		var pending []*Pending
		for i, ctx := range []context.Context{t.Context(), t.Context(), short, t.Context(), short} {
			pending = append(pending, l.Start(ctx, check(fmt.Sprint("k", i))))
			synctest.Wait()
		}
		for i, p := range pending {
			r, err := p.Wait(t.Context())
			if i == 2 || i == 4 {
				wantError(t, ErrTimeout, r, err)
			} else {
				wantResult(t, fmt.Sprint("k", i), r, err)
			}
		}
	})
	if want := []string{"k0", "k1", "k3"}; !slices.Equal(keys, want) {
		t.Errorf("the member saw %v, want %v", keys, want)
	}
}

func TestQueueFull(t *testing.T) {
	bubble(t, &fake{handle: frozen}, Options{MaxQueue: 5}, func(t *testing.T, l *Link) {
		var pending []*Pending
		for range 2 + 5 { // two batches under way, five waiting
			pending = append(pending, l.Start(t.Context(), check("k")))
			synctest.Wait()
		}
		if got, want := l.Status(), (Status{Connected: true, Queued: 5, InFlight: 2}); got != want {
			t.Errorf("Status() = %+v, want %+v", got, want)
		}
		within(t, 0, func() {
			r, err := l.Do(t.Context(), check("k"))
			wantError(t, ErrQueueFull, r, err)
		})
		for _, p := range pending {
			if _, err := p.Wait(t.Context()); err == nil {
				t.Error("a frozen member answered")
			}
		}
	})
}

func TestInvalidItem(t *testing.T) {
	bubble(t, &fake{handle: answering(0)}, Options{}, func(t *testing.T, l *Link) {
		for _, key := range []string{"\xff", strings.Repeat("k", 2<<20)} {
			r, err := l.Do(t.Context(), check(key))
			if r != nil || err == nil || errors.Is(err, ErrBroken) {
				t.Errorf("Do() of a bad item = %v, %v, want an error of its own", r, err)
			}
		}
		r, err := l.Do(t.Context(), check("k"))
		wantResult(t, "k", r, err)
	})
}

// The caller may change the item once Start has returned.
func TestItemIsNotUsedAfterStart(t *testing.T) {
	bubble(t, &fake{handle: answering(time.Millisecond)}, Options{}, func(t *testing.T, l *Link) {
		item := check("")
		var pending []*Pending
		for i := range 50 {
			item.GetCheck().Key = fmt.Sprint("k", i)
			pending = append(pending, l.Start(t.Context(), item))
		}
		for i, p := range pending {
			r, err := p.Wait(t.Context())
			wantResult(t, fmt.Sprint("k", i), r, err)
		}
	})
}

func TestProtocolErrors(t *testing.T) {
	tests := map[string]func(*pb.Answers) *pb.Answers{
		"wrong sequence":  func(a *pb.Answers) *pb.Answers { a.Sequence++; return a },
		"too few":         func(a *pb.Answers) *pb.Answers { a.Results = a.Results[1:]; return a },
		"too many":        func(a *pb.Answers) *pb.Answers { a.Results = append(a.Results, a.Results...); return a },
		"nothing at all":  func(*pb.Answers) *pb.Answers { return nil },
		"answered before": func(a *pb.Answers) *pb.Answers { a.Sequence--; return a },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			f := &fake{handle: func(n int, p *pipe) error {
				for {
					b, err := p.Recv()
					if err != nil {
						return err
					}
					a := echo(b)
					a.Sequence = b.GetSequence()
					if n == 1 {
						a = change(a)
					}
					if err := p.Send(a); err != nil {
						return err
					}
				}
			}}
			bubble(t, f, Options{}, func(t *testing.T, l *Link) {
				within(t, 0, func() {
					r, err := l.Do(t.Context(), check("k"))
					wantError(t, ErrBroken, r, err)
				})
				time.Sleep(time.Second)
				r, err := l.Do(t.Context(), check("k"))
				wantResult(t, "k", r, err)
				synctest.Wait()
				if _, running, _ := f.count(); running != 1 {
					t.Errorf("%d streams are open, want 1", running)
				}
			})
		})
	}
	t.Run("unasked", func(t *testing.T) {
		f := &fake{handle: func(_ int, p *pipe) error {
			_ = p.Send(&pb.Answers{Sequence: 1})
			return frozen(0, p)
		}}
		bubble(t, f, Options{}, func(t *testing.T, l *Link) {
			r, err := l.Do(t.Context(), check("k"))
			wantError(t, ErrBroken, r, err)
		})
	})
}

func TestClose(t *testing.T) {
	bubble(t, &fake{handle: frozen}, Options{}, func(t *testing.T, l *Link) {
		var pending []*Pending
		for range 10 {
			pending = append(pending, l.Start(t.Context(), check("k")))
			synctest.Wait()
		}
		l.Close()
		for _, p := range pending {
			r, err := p.Wait(t.Context())
			wantError(t, ErrClosed, r, err)
		}
		within(t, 0, func() {
			r, err := l.Do(t.Context(), check("k"))
			wantError(t, ErrClosed, r, err)
		})
		l.Close()
		if got := l.Status(); got != (Status{}) {
			t.Errorf("Status() = %+v, want nothing", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Open: func(ctx context.Context) (Stream, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		p := l.Start(t.Context(), check("k"))
		l.Close()
		r, err := p.Wait(t.Context())
		wantError(t, ErrClosed, r, err)
		New(Options{Open: (&fake{}).open}).Close() // never used
	})
}

func TestHeap(t *testing.T) {
	var h heap
	var in []*Pending
	x := uint64(1)
	for range 2000 {
		x = x*6364136223846793005 + 1442695040888963407
		switch {
		case x>>60 < 9 || len(in) == 0:
			p := &Pending{wakeAt: int64(x >> 33 & 0xff)}
			h.push(p)
			in = append(in, p)
		default:
			i := int(x>>33) % len(in)
			h.remove(in[i])
			in = slices.Delete(in, i, i+1)
		}
		for i, p := range in {
			if h[p.heapIndex].p != p {
				t.Fatalf("call %d is not where it says", i)
			}
		}
		if len(in) > 0 {
			first := slices.MinFunc(in, func(a, b *Pending) int { return int(a.wakeAt - b.wakeAt) })
			if h.first().wakeAt != first.wakeAt {
				t.Fatalf("first() has %d, want %d", h.first().wakeAt, first.wakeAt)
			}
		}
		if len(h) != len(in) {
			t.Fatalf("len = %d, want %d", len(h), len(in))
		}
	}
}
