// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/rpc/httpapi"
)

// printWaiting prints how many calls wait for limits, and at which limits most do. It reports
// whether any call waits.
func (s *streams) printWaiting(w *httpapi.Waiting) bool {
	if w == nil || w.Total() == 0 {
		return false
	}
	var classes []string
	for _, class := range []struct {
		calls int64
		name  string
	}{{w.Interactive, "interactive"}, {w.Standard, "standard"}, {w.Batch, "batch"}} {
		if class.calls > 0 {
			classes = append(classes, amount.Group(class.calls)+" "+class.name)
		}
	}
	s.printf("calls that wait: %s\n", strings.Join(classes, ", "))
	row, flush := s.columns("INTERACTIVE", "STANDARD", "BATCH", "LONGEST WAIT", "LIMIT", "OWNER")
	defer flush()
	for i := range w.Limits {
		l := &w.Limits[i]
		longest := (time.Duration(l.LongestMillis) * time.Millisecond).Round(100 * time.Millisecond)
		row(amount.Group(l.Interactive), amount.Group(l.Standard), amount.Group(l.Batch), formatDuration(longest), waitingLimitText(l), l.Owner)
	}
	return true
}

// waitingRows returns how many lines printWaiting prints, with an empty one after them.
func waitingRows(w *httpapi.Waiting) int {
	if w == nil || w.Total() == 0 {
		return 0
	}
	return len(w.Limits) + 3
}

// waitingLimitText names a limit, and its dimension where the name does not say it.
func waitingLimitText(l *httpapi.WaitingLimit) string {
	name := l.Name
	if name != l.Dimension {
		name += " (" + l.Dimension + ")"
	}
	name += " of " + l.Scope
	if l.Model != "" && l.Model != "*" {
		name += " for " + l.Model
	}
	return name
}
