// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"log/slog"
	"time"
)

// moves sums up what becomes of partitions, for the log: thousands may move at once.
type moves struct {
	gained, left, lost int
	next               time.Duration // when the log may have another line
	nextProblem        time.Time
}

const (
	minMovesInterval   = time.Second
	minProblemInterval = 10 * time.Second
)

// note takes note that this member was the owner of a partition and is now, or not.
func (m *moves) note(was, is, lost bool) {
	switch {
	case is && (!was || lost):
		m.gained++
	case was && !is:
		m.left++
	}
	if is && lost {
		m.lost++
	}
}

// pending reports whether there is something to log.
func (m *moves) pending() bool { return m.gained+m.left+m.lost > 0 }

// report logs what has happened since the last line.
func (m *moves) report(log *slog.Logger, now time.Duration) {
	if !m.pending() || now < m.next {
		return
	}
	log.Info("owner of partitions changed", "gained", m.gained, "handed_over", m.left)
	*m = moves{next: now + minMovesInterval, nextProblem: m.nextProblem}
}

// problem logs what should not happen, at most once in minProblemInterval.
func (m *moves) problem(log *slog.Logger, what string, args ...any) {
	now := time.Now()
	if now.Before(m.nextProblem) {
		return
	}
	m.nextProblem = now.Add(minProblemInterval)
	log.Error("problem with the replication from another member", append([]any{"problem", what}, args...)...)
}
