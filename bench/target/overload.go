// SPDX-License-Identifier: Apache-2.0

package target

import (
	"errors"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/internal/overload"
)

// errHeldBack is the error of a call that is not sent.
var errHeldBack = &bench.OverloadedError{HeldBack: true}

// refusals has the errors for retries after 0, 1, 2... ms, since there are many of them
// under overload.
var refusals = func() (errs [257]bench.OverloadedError) {
	for ms := range errs {
		errs[ms].RetryAfter = time.Duration(ms) * time.Millisecond
	}
	return errs
}()

// refusedFor returns the error of a call that may be sent again after d.
func refusedFor(d time.Duration) *bench.OverloadedError {
	if ms := d / time.Millisecond; d%time.Millisecond == 0 && ms >= 0 && int(ms) < len(refusals) {
		return &refusals[ms]
	}
	return &bench.OverloadedError{RetryAfter: d}
}

// throttle holds back calls to a server that refuses, as a good caller does: see
// [overload.Throttle]. It is safe for concurrent use.
type throttle struct {
	start time.Time
	off   bool // nothing is held back
	mu    struct {
		sync.Mutex
		overload.Throttle
	}
}

func newThrottle() *throttle { return &throttle{start: time.Now()} }

func (t *throttle) now() int64 { return int64(time.Since(t.start)) }

// admit returns errHeldBack for a call that must not be sent now, and otherwise nil.
func (t *throttle) admit() error {
	if t.off {
		return nil
	}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if admitted, _ := t.mu.Admit(now); !admitted {
		return errHeldBack
	}
	return nil
}

// observe records how a call ended that was admitted. A failure says nothing about what
// the server can answer.
func (t *throttle) observe(err error) {
	if t.off {
		return
	}
	refused := false
	if err != nil {
		if _, refused = errors.AsType[*bench.OverloadedError](err); !refused {
			return
		}
	}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if refused {
		t.mu.Refused(now, 1)
	} else {
		t.mu.Answered(now, 1)
	}
}

// refusalOf returns the refusal that an error of an RPC is, or nil. A refusal because of
// overload has the code RESOURCE_EXHAUSTED with a RetryInfo; without one it is something
// else, such as too many streams.
func refusalOf(err error) *bench.OverloadedError {
	var from interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &from) {
		return nil
	}
	st := from.GRPCStatus()
	if st.Code() != codes.ResourceExhausted {
		return nil
	}
	for _, detail := range st.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return refusedFor(retry.GetRetryDelay().AsDuration())
		}
	}
	return nil
}
