// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/pb"
)

// defining answers checks, each with a limit of its own definition on the stream and the
// first one's. The request id is the key.
func defining(change func(stream int, a *pb.Answers)) func(int, *pb.Answers, *pb.Batch) {
	var mu sync.Mutex
	next := map[int]uint32{}
	return func(stream int, a *pb.Answers, b *pb.Batch) {
		mu.Lock()
		defer mu.Unlock()
		for i, item := range b.GetItems() {
			next[stream]++
			n, key := next[stream], item.GetCheck().GetKey()
			a.Definitions = append(a.Definitions, &pb.LimitDefinition{Number: n, Name: fmt.Sprint("limit of ", key), Limit: int64(stream)})
			a.Results[i].Values = []*pb.LimitValues{{Definition: n, ScopeBytes: uint32(len(key))}, {Definition: 1, ScopeBytes: uint32(len(key))}}
		}
		change(stream, a)
	}
}

// serveDefined is a handler that answers as d does.
func serveDefined(d func(int, *pb.Answers, *pb.Batch)) func(int, *pipe) error {
	return func(n int, p *pipe) error {
		return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
			a := echo(b)
			if !b.GetTakesDefinitions() {
				panic("a link does not say that it takes definitions")
			}
			d(n, a, b)
			return proto.CloneOf(a)
		})
	}
}

// Calls get the limits that the definitions of their own stream say, while more definitions
// arrive.
func TestDefinedLimits(t *testing.T) {
	f := &fake{handle: serveDefined(defining(func(int, *pb.Answers) {}))}
	bubble(t, f, Options{MaxItems: 7}, func(t *testing.T, l *Link) {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				for j := range 10 {
					key := fmt.Sprint("key", i, "/", j)
					r, err := l.Do(t.Context(), check(key))
					wantResult(t, key, r, err)
					limits := r.GetDecision().GetLimits()
					if len(limits) != 2 || limits[0].GetName() != "limit of "+key || limits[0].GetScope() != key || limits[1].GetName() == "" {
						t.Errorf("Do(%s) has limits %v", key, limits)
					}
				}
			})
		}
		wg.Wait()
	})
}

// A stream whose definitions make no sense is broken: its calls get no answer, and the next
// stream begins with none.
func TestNonsenseDefinitions(t *testing.T) {
	for name, change := range map[string]func(*pb.Answers){
		"out of order": func(a *pb.Answers) { slices.Reverse(a.Definitions); a.Definitions[0].Number = 9 },
		"again":        func(a *pb.Answers) { a.Definitions = append(a.Definitions, a.Definitions[0]) },
		"not UTF-8":    func(a *pb.Answers) { a.Definitions[0].ProtoReflect().SetUnknown([]byte{0x12, 1, 0xff}) },
	} {
		f := &fake{handle: serveDefined(defining(func(stream int, a *pb.Answers) {
			if stream == 1 {
				change(a)
			}
		}))}
		bubble(t, f, Options{}, func(t *testing.T, l *Link) {
			if r, err := l.Do(t.Context(), check("a")); !errors.Is(err, ErrBroken) || r != nil {
				t.Errorf("%s: Do() = %v, %v, want %v", name, r, err, ErrBroken)
			}
			time.Sleep(2 * maxBackoff) // virtual: until the link opens another stream
			r, err := l.Do(t.Context(), check("b"))
			wantResult(t, "b", r, err)
			if limits := r.GetDecision().GetLimits(); len(limits) != 2 || limits[0].GetLimit() != 2 {
				t.Errorf("%s: limits = %v, want those of the second stream", name, limits)
			}
		})
	}
}

// A result that refers to a definition that did not come is no answer. Other calls of the
// stream are not affected.
func TestUnknownDefinition(t *testing.T) {
	f := &fake{handle: serveDefined(defining(func(_ int, a *pb.Answers) {
		for i, r := range a.Results {
			if r.GetDecision().GetRequestId() == "bad" {
				a.Results[i].Values[1].Definition = 77
			}
		}
	}))}
	bubble(t, f, Options{}, func(t *testing.T, l *Link) {
		for range 3 {
			r, err := l.Do(t.Context(), check("bad"))
			wantError(t, ErrAnswer, r, err)
			r, err = l.Do(t.Context(), check("good"))
			wantResult(t, "good", r, err)
		}
	})
}
