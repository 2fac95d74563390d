// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/text"
)

// Problem is a sentence about what needs attention, and why. Why may be empty.
type Problem struct{ What, Why string }

// String returns the problem as one line.
func (p Problem) String() string {
	if p.Why == "" {
		return p.What
	}
	return p.What + ": " + p.Why
}

// Problems lists nodes that are not taken for members, files that cannot be used, and lines
// that logs have lost. The commands and the status page show them in the same words.
func (s *Status) Problems() (list []Problem) {
	add := func(is bool, why, format string, args ...any) {
		if is {
			list = append(list, Problem{fmt.Sprintf(format, args...), text.OneLine(why)})
		}
	}
	for _, u := range s.Cluster.Unvouched {
		add(true, u.Problem, "the node at %s is not taken for the member %s", u.Address, u.Name)
	}
	if s.Auth != nil {
		add(s.Auth.LastError != "", s.Auth.LastError, "the file of callers cannot be used, so the previous callers stay in force")
	}
	if e := s.Envoy; e != nil && e.Files != nil {
		add(e.Files.LastError != "", e.Files.LastError, "the rules for Envoy cannot be used, so the previous rules stay in force")
	}
	if e := s.Envoy; e != nil && e.Plane != nil {
		then := "so the previous rules stay in force"
		if e.Plane.Version == "" {
			then = "and there are no previous ones"
		}
		add(e.Plane.LastError != "", e.Plane.LastError, "the rules for Envoy of %s cannot be used, %s", e.Plane.Address, then)
	}
	if s.TLS != nil {
		for _, f := range s.TLS.Files {
			add(f.Problem != "", f.Problem, "TLS files (%s) cannot be used, so the previous ones stay in use", f.Name)
		}
	}
	if u := s.UsageLog; u != nil {
		add(u.Problem != "", u.Problem, "the usage log %s cannot be written now", u.File)
		add(u.Lost > 0, "", "the usage log %s has lost %s lines since the start", u.File, amount.Group(u.Lost))
	}
	add(s.AuditLog.Lost > 0, s.AuditLog.LastError, "the audit log has lost %s lines since the start", amount.Group(s.AuditLog.Lost))
	return list
}
