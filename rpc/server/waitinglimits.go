// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"slices"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
)

// WaitingLimit is a limit at which calls wait.
type WaitingLimit struct {
	Scope     string
	Name      string
	Dimension limiter.Dimension
	Model     string // of a limit per model: "*" for calls without one
	Waiting   Waiting
	Longest   time.Duration // since the first of them began to wait
}

// Total returns how many calls wait, of all classes.
func (w Waiting) Total() int64 { return w.Interactive + w.Standard + w.Batch }

// WaitingLimits returns up to n limits at which most calls wait, those with the most first. Each
// line is locked while its calls are read.
func (s *Service) WaitingLimits(n int) []WaitingLimit {
	var most []WaitingLimit
	s.eachLine(func(l *rootLine) {
		now := s.now().Mono
		l.line.EachLimit(func(at *line.AtLimit) {
			w := WaitingLimit{
				Scope: at.Scope, Name: at.Name, Dimension: at.Dimension, Model: at.Model,
				Waiting: Waiting{int64(at.Calls[0]), int64(at.Calls[1]), int64(at.Calls[2])},
				Longest: time.Duration(max(now-at.Since, 0)),
			}
			i, _ := slices.BinarySearchFunc(most, w, compareWaiting)
			if i < n {
				most = slices.Insert(most, i, w)
				most = most[:min(n, len(most))]
			}
		})
	})
	return most
}

// compareWaiting orders limits by how many calls wait, the most first.
func compareWaiting(a, b WaitingLimit) int {
	return cmp.Or(
		cmp.Compare(b.Waiting.Total(), a.Waiting.Total()), cmp.Compare(b.Longest, a.Longest),
		cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Dimension, b.Dimension), cmp.Compare(a.Model, b.Model),
	)
}
