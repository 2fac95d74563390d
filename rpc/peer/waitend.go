// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"slices"

	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// maxMissed bounds the attempts that are remembered, far above how often owners change during a
// wait.
const maxMissed = 64

// miss remembers that a member may have decided the call, and did not say so.
func (w *waiting) miss() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.missed) < maxMissed && !slices.Contains(w.missed, w.call.Attempt) {
		w.missed = append(w.missed, w.call.Attempt)
	}
}

// newAttempt makes what comes next another attempt than the one that a member may have decided,
// and may withdraw, because this member has left there.
func (w *waiting) newAttempt() {
	w.miss()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.call.Attempt, w.asked = requestid.NextMemberAttempt(w.call.Attempt), false
}

func (w *waiting) hasGone() bool {
	select {
	case <-w.gone:
		return true
	default:
		return false
	}
}

// end gives the caller the result. What may be charged all the same is taken back: if the
// caller has gone, or if the call is not admitted in the end.
func (w *waiting) end(result *pb.Result) {
	w.mu.Lock()
	gone, attempt := w.hasGone(), w.call.Attempt
	if !gone {
		w.result = result
	}
	w.mu.Unlock()
	missed := w.missedAttempts()
	switch {
	case !gone:
		w.done(result)
		if isAdmitted(result) || w.fromMember { // the member that asks goes on with the same attempt
			return
		}
	case isAdmitted(result):
		missed = append(missed, attempt)
	}
	w.withdraw(missed)
}

// callerGone ends the waiting: nothing stays charged. If the call had its result before, it is
// returned.
func (w *waiting) callerGone() *pb.Result {
	w.mu.Lock()
	if w.result != nil {
		defer w.mu.Unlock()
		return w.result
	}
	if !w.hasGone() {
		close(w.gone)
	}
	leave := w.leave
	if w.timer != nil {
		w.timer.Stop()
	}
	attempts := slices.Clone(w.missed)
	if w.asked { // its answer may be on its way
		attempts = append(attempts, w.call.Attempt)
	}
	w.mu.Unlock()
	w.router.away.remove(w)
	if leave != nil {
		leave()
	}
	w.withdraw(attempts)
	return nil
}

// discard is callerGone for a caller that does not get a result which came before.
func (w *waiting) discard() {
	if result := w.callerGone(); isAdmitted(result) {
		w.mu.Lock()
		attempt := w.call.Attempt
		w.mu.Unlock()
		w.withdraw(append(w.missedAttempts(), attempt))
	}
}

func isAdmitted(result *pb.Result) bool {
	d := result.GetDecision()
	return d != nil && d.Outcome != pb.Outcome_OUTCOME_DENIED
}

func (w *waiting) missedAttempts() []uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.missed)
}

// withdraw takes back attempts that an owner may have charged.
func (w *waiting) withdraw(attempts []uint64) {
	for i, attempt := range attempts {
		if slices.Contains(attempts[:i], attempt) {
			continue
		}
		w.mu.Lock()
		c := w.call
		w.mu.Unlock()
		c.Attempt = attempt
		w.router.withdraw(&c)
	}
}
