// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"

	"github.com/bucketring/bucketring/internal/audit"
)

// forgetting is the last removal of a member that is not complete.
type forgetting struct {
	member string
	force  bool
	by     string
}

// Forget has a member forgotten by do, which reports whether that is complete, and writes it
// to the audit log. Callers repeat the call until it is complete: that begins it once and is
// not written again before its end. refused reports whether an error means that nothing was
// changed.
func (s *Service) Forget(ctx context.Context, member string, force bool, do func() (complete bool, err error), refused func(error) bool) error {
	who, _ := caller(ctx) // it may be anybody whom the node answers
	e := &audit.Entry{Action: "forget", Caller: who, Target: member, Force: force}
	now := forgetting{member, force, addressOf(ctx).String()}
	s.forgetting.Lock()
	repeated := s.forgetting.last == now
	s.forgetting.Unlock()
	if !repeated {
		if err := s.announce(e); err != nil {
			return err
		}
	}
	complete, err := do()
	result := resultDone
	switch {
	case err != nil && refused(err):
		e.Error, result = err.Error(), resultRefused
	case err != nil:
		e.Error, result = err.Error(), resultUnknown
	case !complete:
		result = resultPending
	}
	s.forgetting.Lock()
	if result == resultPending {
		s.forgetting.last = now
	} else if repeated {
		s.forgetting.last = forgetting{}
	}
	s.forgetting.Unlock()
	if !repeated || result != resultPending {
		s.end(e, result)
	}
	return err
}
