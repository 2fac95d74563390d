// SPDX-License-Identifier: Apache-2.0

package await

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

// served runs Serve on a pipe in a bubble. The error of Serve is sent to ended.
func served(t *testing.T, most int, begin func(*pb.Item, func(*pb.Result)) func()) (p clientEnd, stop chan struct{}, ended chan error) {
	t.Helper()
	stop, ended = make(chan struct{}), make(chan error, 1)
	f := &fake{handle: func(_ int, p *pipe) error {
		err := Serve(p, stop, most, begin)
		ended <- err
		return err
	}}
	s, err := f.pipe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return clientEnd{s}, stop, ended
}

func send(t *testing.T, p clientEnd, number uint64, item *pb.Item) {
	t.Helper()
	if err := p.Send(&pb.WaitMessage{Number: number, Item: item}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func wantAnswer(t *testing.T, p clientEnd, number uint64, key string) {
	t.Helper()
	a, err := p.Recv()
	if err != nil || a.GetNumber() != number || a.GetResult().GetDecision().GetRequestId() != key {
		t.Errorf("Recv() = %v, %v, want the answer %d to %s", a, err, number, key)
	}
}

// After stop the calls leave, what was answered before is sent, and the stream ends with OK.
func TestServeStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine()
		p, stop, ended := served(t, 100, l.begin)
		for i, key := range []string{"a", "b", "c", "d"} {
			send(t, p, uint64(i), item(key))
		}
		l.admit("b")
		l.admit("c")
		late := l.waits["d"]
		close(stop)
		l.want(t, 0, 2)
		late(answerTo("d")) // ignored
		wantAnswer(t, p, 1, "b")
		wantAnswer(t, p, 2, "c")
		if a, err := p.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("Recv() = %v, %v, want the end", a, err)
		}
		if err := <-ended; err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
}

// When the peer goes, its calls leave.
func TestServePeerGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, ended := newLine(), make(chan error, 1)
		f := &fake{handle: func(_ int, p *pipe) error {
			err := Serve(p, nil, 100, l.begin)
			ended <- err
			return err
		}}
		ctx, cancel := context.WithCancel(t.Context())
		s, err := f.pipe(ctx)
		if err != nil {
			t.Fatal(err)
		}
		send(t, clientEnd{s}, 1, item("a"))
		l.want(t, 1, 0)
		cancel()
		l.want(t, 0, 1)
		if err := <-ended; !errors.Is(err, context.Canceled) && status.Code(err) != codes.Canceled {
			t.Errorf("Serve() = %v, want Canceled", err)
		}
	})
}

// A peer that ends its side still gets the answers to its calls.
func TestServePeerEndsItsSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine()
		p, _, ended := served(t, 100, l.begin)
		send(t, p, 1, item("a"))
		send(t, p, 2, item("b"))
		close(p.halfway)
		l.want(t, 2, 0)
		l.admit("b")
		wantAnswer(t, p, 2, "b")
		l.admit("a")
		wantAnswer(t, p, 1, "a")
		if err := <-ended; err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
}

func TestServeErrors(t *testing.T) {
	ignore := func(*pb.Item, func(*pb.Result)) func() { return func() {} }
	for _, tt := range []struct {
		name  string
		begin func(*pb.Item, func(*pb.Result)) func()
		send  []uint64
		leave bool
		want  codes.Code
	}{
		{"twice", ignore, []uint64{7, 7}, false, codes.InvalidArgument},
		{"begin panics", func(*pb.Item, func(*pb.Result)) func() { panic("secret") }, []uint64{1}, false, codes.Internal},
		{"leave panics", func(*pb.Item, func(*pb.Result)) func() { return func() { panic("secret") } }, []uint64{1}, true, codes.Internal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, _, ended := served(t, 100, tt.begin)
				for _, number := range tt.send {
					send(t, p, number, item("a"))
				}
				if tt.leave {
					send(t, p, 1, nil)
				}
				err := <-ended
				if s, ok := status.FromError(err); !ok || s.Code() != tt.want || strings.Contains(s.Message(), "secret") {
					t.Errorf("Serve() = %v, want %v without details", err, tt.want)
				}
				if _, panicked := errors.AsType[*link.PanicError](err); panicked != (tt.want == codes.Internal) {
					t.Errorf("Serve() = %T, want a PanicError: %v", err, !panicked)
				}
			})
		})
	}
	t.Run("leave panics at the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, stop, ended := served(t, 100, func(*pb.Item, func(*pb.Result)) func() { return func() { panic("secret") } })
			send(t, p, 1, item("a"))
			close(stop)
			if _, panicked := errors.AsType[*link.PanicError](<-ended); !panicked {
				t.Error("Serve() hides a panic")
			}
		})
	})
}

// A call may be done before begin returns. A number may be used again after that.
func TestServeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := false
		p, stop, ended := served(t, 100, func(item *pb.Item, done func(*pb.Result)) func() {
			done(answerTo(item.GetCheck().GetKey()))
			done(answerTo("twice"))
			return func() { left = true }
		})
		for range 3 {
			send(t, p, 5, item("a"))
			wantAnswer(t, p, 5, "a")
		}
		send(t, p, 5, nil)
		send(t, p, 99, nil) // never began
		close(stop)
		if err := <-ended; err != nil || left {
			t.Errorf("Serve() = %v, left: %v", err, left)
		}
	})
}

// A call above the bound is answered with ResourceExhausted. The others are not affected.
func TestServeFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine()
		p, _, _ := served(t, 2, l.begin)
		for i, key := range []string{"a", "b", "c"} {
			send(t, p, uint64(i), item(key))
		}
		a, err := p.Recv()
		if e := a.GetResult().GetError(); err != nil || a.GetNumber() != 2 || codes.Code(e.GetCode()) != codes.ResourceExhausted || e.GetMessage() == "" {
			t.Errorf("Recv() = %v, %v, want ResourceExhausted for the third call", a, err)
		}
		l.want(t, 2, 0)
		send(t, p, 0, nil)
		send(t, p, 4, item("d"))
		l.want(t, 2, 1)
		l.admit("d")
		wantAnswer(t, p, 4, "d")
	})
}

// From a peer that reads no answers nothing more is read: what is unsent is bounded. It goes on
// when the peer reads.
func TestServeSlowPeer(t *testing.T) {
	const most, calls = 10, 1000
	synctest.Test(t, func(t *testing.T) {
		began := 0
		p, stop, ended := served(t, most, func(item *pb.Item, done func(*pb.Result)) func() {
			began++
			done(answerTo(item.GetCheck().GetKey()))
			return func() {}
		})
		go func() {
			for i := range calls {
				if p.Send(&pb.WaitMessage{Number: uint64(i), Item: item(fmt.Sprint(i))}) != nil {
					return
				}
			}
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		if began > most+1 {
			t.Errorf("%d calls began, want at most %d", began, most+1)
		}
		for i := range calls {
			wantAnswer(t, p, uint64(i), fmt.Sprint(i))
		}
		close(stop)
		if err := <-ended; err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
}
