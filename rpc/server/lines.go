// SPDX-License-Identifier: Apache-2.0

package server

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
	"github.com/bucketring/bucketring/rpc/internal/call"
)

// maxWaiting is how many calls may wait at this member. A root may have at most
// [line.DefaultDepth] of them, and no more than are free.
const maxWaiting = 200_000

// lineShards is over how many locks the lines are spread.
const lineShards = 256

// lines are the lines of the roots for which calls wait at this member. They are safe for
// concurrent use. A root without calls that wait has no line.
type lines struct {
	since   func(partition int) uint64
	metrics *waitMetrics
	roots   atomic.Int64 // with a line
	calls   atomic.Int64 // that wait
	shards  [lineShards]struct {
		sync.Mutex
		of map[string]*rootLine
	}
}

// rootLine is the line of a root, with the calls that wait in it. Its mutex is locked while
// a call of the root is decided, so that no call overtakes.
type rootLine struct {
	sync.Mutex
	service   *Service
	root      string
	partition int
	users     int // guarded by the shard

	line  *line.Line
	calls map[line.ID]*Waiter
	ids   map[waitingID]*Waiter
	timer *time.Timer
	// On the clock of the engine:
	at     int64 // when timer fires; 0: it does not
	expiry int64 // when the next lease ends, as of when timer was set; 0: those that wait know of its end
}

// waitingID names a call by what a repeat has in common with it.
type waitingID struct {
	kind    call.Kind
	key, id string
}

// lineOf returns the locked line of the root of a key, nil if it has none. The caller must
// leave it.
func (s *Service) lineOf(key string) *rootLine {
	if s.lines == nil || s.lines.roots.Load() == 0 {
		return nil
	}
	return s.lines.enter(s, keypath.Root(key), false)
}

// enter returns the locked line of a root. If it has none, it gets one if create is set, and
// otherwise nil is returned.
func (ls *lines) enter(s *Service, root string, create bool) *rootLine {
	shard := &ls.shards[xxhash.Sum64String(root)%lineShards]
	shard.Lock()
	l := shard.of[root]
	if l == nil {
		if !create {
			shard.Unlock()
			return nil
		}
		if shard.of == nil {
			shard.of = map[string]*rootLine{}
		}
		root = strings.Clone(root) // of the memory of a request
		l = &rootLine{
			service: s, root: root, partition: limiter.PartitionOf(root),
			line: line.New(line.Bounds{}), calls: map[line.ID]*Waiter{}, ids: map[waitingID]*Waiter{},
		}
		shard.of[root] = l
		ls.roots.Add(1)
	}
	l.users++
	shard.Unlock()
	l.Lock()
	return l
}

// leave unlocks a line, and removes it if nobody waits in it.
func (ls *lines) leave(l *rootLine) {
	l.Unlock()
	shard := &ls.shards[xxhash.Sum64String(l.root)%lineShards]
	shard.Lock()
	defer shard.Unlock()
	if l.users--; l.users > 0 || len(l.calls) > 0 {
		return
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	delete(shard.of, l.root)
	ls.roots.Add(-1)
}

// all returns the roots that have a line.
func (ls *lines) all() (roots []string) {
	if ls.roots.Load() == 0 {
		return nil
	}
	for i := range ls.shards {
		shard := &ls.shards[i]
		shard.Lock()
		for root := range shard.of {
			roots = append(roots, root)
		}
		shard.Unlock()
	}
	return roots
}

// eachLine calls f for each line, which is locked.
func (s *Service) eachLine(f func(l *rootLine)) {
	if s.lines == nil {
		return
	}
	for _, root := range s.lines.all() {
		if l := s.lines.enter(s, root, false); l != nil {
			f(l)
			s.lines.leave(l)
		}
	}
}

// EnableWaiting lets calls wait at this member. since returns the term since which it owns a
// partition, see [Results.SetSince]. It must be called before the first call.
func (s *Service) EnableWaiting(since func(partition int) uint64) {
	s.lines = &lines{since: since, metrics: s.metrics.waiting}
}

// CallerWaits says that a unary call in progress waits for a limit, until end is called. It
// does not count against the bound of calls meanwhile.
func (s *Service) CallerWaits() (end func()) { return s.admission.wait() }

// PolicyChanged has the calls that wait tried again: a limit may have been raised.
func (s *Service) PolicyChanged() {
	s.eachLine(func(l *rootLine) {
		l.line.FreedAll(s.now().Mono)
		l.run()
	})
}

// MoveWaiting ends the waiting of the calls of partitions that this member does not own any
// more: they are to be asked again at the next owner.
func (s *Service) MoveWaiting(owns func(partition int) bool) {
	s.eachLine(func(l *rootLine) {
		if !owns(l.partition) {
			l.move()
		}
	})
}

// freed has the calls tried that wait for limits to which a call of key gave something back.
func (s *Service) freed(key string, limits []limiter.LimitState) {
	if l := s.lineOf(key); l != nil {
		l.line.Freed(s.now().Mono, limits)
		l.run()
		s.lines.leave(l)
	}
}

// freedAll is freed for all limits of the root of key.
func (s *Service) freedAll(key string) {
	if l := s.lineOf(key); l != nil {
		l.line.FreedAll(s.now().Mono)
		l.run()
		s.lines.leave(l)
	}
}
