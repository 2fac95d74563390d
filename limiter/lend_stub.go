// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bucketring/bucketring/limiter/slice"
)

// This file is temporary: it has the shape of Lend and Return, by reserves and checks.

// HotRate is the rate of a key from which on slices of it are lent, in checks per second.
const HotRate = 1000

// Loan is what [Engine.Lend] lends.
type Loan struct {
	ID      string        // in: of the slice, unique
	Share   int64         // in: of the key's calls that come from the asker, in thousandths
	Holders int           // in: how many hold or will hold slices of the key, at least 1
	Client  bool          // in: the asker is a client library
	Amounts []int64       // out: per limit of d.Limits, in order, without the margin; reused memory
	Calls   int64         // out: how many calls like r it holds
	Lease   time.Duration // out: how long the holder may spend it, from when it asked
}

type stubLoan struct {
	request Request
	plan    Plan
	costs   []int64
}

var stubLoans sync.Map // of *stubLoan by id

// Lend charges a slice.
func (e *Engine) Lend(now Time, r *Request, l *Loan, d *Decision) (ok bool, err error) {
	loan := &stubLoan{request: *r, plan: *r.Plan}
	loan.request.Plan, loan.request.Attempt, loan.request.Key = &loan.plan, 0, string([]byte(r.Key))
	e.Peek(now, r, d)
	n := int64(1 << 40)
	for i := range d.Limits {
		st := &d.Limits[i]
		cost := int64(0)
		if st.Dimension == Requests {
			cost = r.Requests
		}
		loan.costs = append(loan.costs, cost)
		if cost > 0 {
			n = min(n, slice.Size(st.Remaining, st.Capacity, l.Share, cost, l.Holders)/cost)
		}
	}
	if n < 4 || n == 1<<40 {
		return false, nil
	}
	q := loan.request
	q.ID, q.Requests, q.TTL = l.ID, n*r.Requests, time.Second
	if err := e.Reserve(now, &q, d); err != nil || d.Outcome != Allowed {
		return false, err
	}
	l.Amounts = l.Amounts[:0]
	for _, cost := range loan.costs {
		l.Amounts = append(l.Amounts, n*cost)
	}
	l.Calls, l.Lease = n, time.Second
	stubLoans.Store(l.ID, loan)
	return true, nil
}

// Return ends a slice.
func (e *Engine) Return(now Time, key, id string, spent []int64, d *Decision) error {
	v, ok := stubLoans.Load(id)
	if !ok {
		return ErrUnknownReservation
	}
	loan := v.(*stubLoan)
	if len(spent) != len(loan.costs) {
		return numberError("spent", int64(len(spent)), fmt.Sprint("must have ", len(loan.costs), " entries"))
	}
	if err := e.Cancel(now, key, id, d); err != nil {
		if !errors.Is(err, ErrClosed) {
			stubLoans.Delete(id)
		}
		return err
	}
	stubLoans.Delete(id)
	q := loan.request
	q.ID, q.Force, q.Requests = "", true, 0
	for i, n := range spent {
		if loan.costs[i] > 0 {
			q.Requests = n / loan.costs[i] * loan.request.Requests
		}
	}
	if err := e.Check(now, &q, d); err != nil {
		return err
	}
	d.Large = true
	return nil
}
