// SPDX-License-Identifier: Apache-2.0

package slices_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// keeper is an owner that has what was returned. Every third return is lost.
type keeper struct {
	*testing.T
	sends atomic.Int64

	mu       sync.Mutex
	returned map[string]*pb.SliceReturn
	kept     map[string]string // the slices of reservations
}

func (k *keeper) send(_ context.Context, item *pb.Item) error {
	if k.sends.Add(1)%3 == 0 {
		return errors.New("lost")
	}
	r := item.GetSliceReturn()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.returned[r.GetSlice()] != nil {
		k.Errorf("%s was returned again after it was acknowledged", r.GetSlice())
	}
	k.returned[r.GetSlice()] = r
	for _, one := range r.GetKept() {
		id := one.GetRequest().GetRequestId()
		if in, known := k.kept[id]; known {
			k.Errorf("reservation %s is kept in the returns of %s and %s", id, in, r.GetSlice())
		}
		k.kept[id] = r.GetSlice()
	}
	return nil
}

// has reports whether the owner has a reservation.
func (k *keeper) has(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept[id] != ""
}

// Many goroutines reserve, settle and cancel, while slices are recalled, renewed, over, and
// returned. Each reservation is either settled or cancelled in memory, or kept in exactly one
// return: when a call has to wait for the owner, the owner has it then. What was spent is what
// was settled, and no slice is overspent.
func TestConcurrentReservations(t *testing.T) {
	const keys, callers, calls, size = 3, 12, 1500, 40
	k := &keeper{T: t, returned: map[string]*pb.SliceReturn{}, kept: map[string]string{}}
	began := time.Now()
	table := slices.New(slices.Options{Now: func() int64 { return int64(time.Since(began)) }, Send: k.send})
	var ids, reserved, settled, left, spent atomic.Int64
	ended := sync.Map{} // ids of reservations that ended in memory
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(caller), 1))
			type reservation struct{ key, id string }
			var open []reservation
			end := func() {
				i := r.IntN(len(open))
				o := open[i]
				open[i] = open[len(open)-1]
				open = open[:len(open)-1]
				var s slices.Settlement
				var done bool
				var returned <-chan struct{}
				var err error
				u := settle(o.key, r.Int64N(30))
				progress := r.IntN(20) == 0
				switch {
				case progress:
					u.Final = new(false)
					done, returned, err = table.Settle(u, o.id, &s)
				case r.IntN(4) == 0:
					done, returned, err = table.Cancel(o.key, o.id, &s)
				default:
					done, returned, err = table.Settle(u, o.id, &s)
				}
				switch {
				case err != nil || progress && done:
					t.Errorf("a call for %s failed: %v, or progress was done in memory: %v", o.id, err, done)
				case done:
					settled.Add(1)
					spent.Add(s.Cost(1))
					if _, twice := ended.LoadOrStore(o.id, true); twice {
						t.Errorf("%s has ended twice", o.id)
					}
				default:
					left.Add(1)
					if returned != nil {
						<-returned
					}
					if !k.has(o.id) {
						t.Errorf("the owner does not have %s, which was left to it", o.id)
					}
				}
			}
			for i := range calls {
				q := reserve(fmt.Sprint((caller+i)%keys), r.Int64N(10), r.Int64N(10))
				q.Tier = fmt.Sprint(i / 100 % 2)
				id := fmt.Sprint(caller, "-", i)
				var a slices.Answer
				asked := table.Now()
				switch {
				case table.Reserve(q, id, &a, true):
					reserved.Add(1)
					open = append(open, reservation{q.GetKey(), id})
				case !table.Asks(q):
				case i%7 == 0:
					table.Answered(q)
				default:
					lent := reserveSlice(fmt.Sprint("s", ids.Add(1)), size)
					lent.LeaseNanos = int64(5 * time.Millisecond)
					table.Granted(q, asked, lent, decision())
				}
				if len(open) > 0 && r.IntN(3) > 0 {
					end()
				}
				if i%200 == 0 {
					table.Recall(q.GetKey())
					table.Status()
				}
			}
			for len(open) > 5 { // the others are never ended
				end()
			}
		})
	}
	wg.Wait()
	if err := table.Close(waittest.Context(t, waittest.Limit)); err != nil {
		t.Fatalf("Close() = %v", err)
	}
	returned := int64(0)
	for id, r := range k.returned {
		used := r.GetSpent()[1]
		returned += r.GetSpent()[1]
		for _, one := range r.GetKept() {
			used += one.GetCosts()[1]
		}
		if used > 10*size {
			t.Errorf("%d tokens of %s were spent and held, more than %d", used, id, 10*size)
		}
	}
	for id := range k.kept {
		if _, both := ended.Load(id); both {
			t.Errorf("%s has ended in memory, and is kept", id)
		}
	}
	if returned != spent.Load() || int64(len(k.returned)) != ids.Load() {
		t.Errorf("%d of %d slices were returned, with %d spent, want %d", len(k.returned), ids.Load(), returned, spent.Load())
	}
	if n := settled.Load() + int64(len(k.kept)); n != reserved.Load() {
		t.Errorf("%d reservations were made, and %d have ended in memory or are kept", reserved.Load(), n)
	}
	if st := table.Status(); st.Open != 0 || int64(st.Settled) != settled.Load() || int(st.Kept) != len(k.kept) || int64(st.Reserved) != reserved.Load() {
		t.Errorf("Status() = %+v, want %d reserved, %d settled, %d kept", st, reserved.Load(), settled.Load(), len(k.kept))
	}
	if settled.Load() < 100 || left.Load() < 100 || len(k.kept) < 100 {
		t.Errorf("%d settled, %d left to the owner, %d kept: the test shows too little", settled.Load(), left.Load(), len(k.kept))
	}
}
