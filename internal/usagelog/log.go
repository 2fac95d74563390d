// SPDX-License-Identifier: Apache-2.0

package usagelog

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/limiter"
)

const (
	writeEvery = 250 * time.Millisecond
	syncEvery  = time.Second // also between two looks whether the file was moved
	// writeBytes is how much is written at once, as a rule.
	writeBytes = 256 << 10
	// complainEvery is the time between two messages about the same trouble.
	complainEvery = time.Minute
)

// Options configure a [Log].
type Options struct {
	Path string
	Node string // the name of the member in the lines
	// MaxSize is the size in bytes at which the file is moved away; 0: never. Keep is how
	// many of those files are kept; 0: all.
	MaxSize int64
	Keep    int
	Metrics *Metrics
	Logger  *slog.Logger
}

// Log writes the charges of an engine to a file. It is safe for concurrent use, except that
// Run may be called only once.
type Log struct {
	node    string
	path    string
	file    *file
	metrics *Metrics
	log     *slog.Logger
	wake    notify.Signal
	queues  [stripes]queue

	lines, lost atomic.Int64

	mu      sync.Mutex
	problem string // of the latest attempt to write, or ""

	// Of the goroutine that writes.
	spare    *batch
	pending  []byte // lines that are still to be written
	waiting  int    // how many
	synced   time.Time
	saidLost int64
	complain time.Time // not before then
}

var _ limiter.Ledger = (*Log)(nil)

// Open opens the file of a log. The error says what is wrong with it.
func Open(o Options) (*Log, error) {
	f, err := openFile(o.Path, o.MaxSize, o.Keep)
	if err != nil {
		return nil, fmt.Errorf("usage log: %w", err)
	}
	l := &Log{node: o.Node, path: o.Path, file: f, metrics: o.Metrics, log: o.Logger, wake: notify.New(), spare: new(batch)}
	for i := range l.queues {
		l.queues[i].batch = new(batch)
	}
	return l, nil
}

// Charged implements [limiter.Ledger].
func (l *Log) Charged(c *limiter.Charged) {
	if len(c.Key) == 0 {
		l.lost.Add(1)
		l.metrics.unknown.Inc()
		return
	}
	switch n := l.queues[c.Partition%stripes].push(c); n {
	case 0:
		l.lost.Add(1)
		l.metrics.full.Inc()
	case maxQueued / 4, maxQueued / 2:
		l.wake.Set()
	}
}

// Run writes charges until ctx is done, and then what is left. It never fails: what cannot be
// written is tried again.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-l.wake.C():
		}
		l.write()
	}
}

// Close writes what is left, once, and closes the file. It must not be called before Run has
// returned, and nothing is charged any more.
func (l *Log) Close() error {
	l.synced = time.Time{}
	l.write()
	left := l.waiting
	for i := range l.queues {
		left += l.queues[i].len()
	}
	err := l.file.close()
	if left > 0 {
		l.lost.Add(int64(left))
		l.metrics.abandoned.Add(float64(left))
		return fmt.Errorf("usage log %s: %d charges could not be written, and are lost: %s", l.path, left, l.Status().Problem)
	}
	return err
}

// write writes what is in the queues, and puts it on disk if it is time to.
func (l *Log) write() {
	err := l.writeQueues()
	if now := time.Now(); now.Sub(l.synced) >= syncEvery {
		l.synced = now
		if err == nil {
			err = l.file.sync()
		}
		if err == nil {
			l.metrics.lastSync.Set(float64(now.UnixNano()) / 1e9)
		}
		if followed := l.file.follow(); err == nil {
			err = followed
		}
	}
	l.report(err)
}

func (l *Log) writeQueues() error {
	if err := l.flush(); err != nil {
		return err
	}
	for i := range l.queues {
		full := l.queues[i].swap(l.spare)
		var err error
		full.each(func(c *limiter.Charged) {
			l.pending = appendLine(l.pending, l.node, c)
			l.waiting++
			if len(l.pending) >= writeBytes && err == nil {
				err = l.flush()
			}
		})
		full.reset()
		l.spare = full
		if err == nil {
			err = l.flush()
		}
		if err != nil {
			return err // nothing is taken from the queues until the lines are written
		}
	}
	return nil
}

// flush writes the lines that are to be written.
func (l *Log) flush() error {
	if len(l.pending) == 0 {
		return nil
	}
	rest, err := l.file.write(l.pending)
	before := l.waiting
	l.waiting = 0
	for _, c := range rest {
		if c == '\n' {
			l.waiting++
		}
	}
	l.metrics.lines.Add(float64(before - l.waiting))
	l.lines.Add(int64(before - l.waiting))
	l.pending = l.pending[:copy(l.pending, rest)]
	return err
}

// report says how writing went: in the metrics, in the status, and in the log when that
// changes, and once a minute.
func (l *Log) report(err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
		l.metrics.errors.Inc()
	}
	l.mu.Lock()
	was := l.problem
	l.problem = problem
	l.mu.Unlock()
	now, lost := time.Now(), l.lost.Load()
	switch {
	case problem == "" && was != "":
		l.metrics.failing.Set(0)
		l.complain = time.Time{}
		l.log.Info("usage log is written again", "file", l.path)
	case problem != "" && (was == "" || !now.Before(l.complain)):
		l.metrics.failing.Set(1)
		l.complain = now.Add(complainEvery)
		l.log.Error("usage log cannot be written: charges wait in memory, and are lost when their queue is full", "file", l.path, "error", err, "lost", lost)
	}
	if lost > l.saidLost && !now.Before(l.complain) {
		l.complain = now.Add(complainEvery)
		l.log.Error("charges are not in the usage log", "file", l.path, "lost", lost-l.saidLost, "lost_since_start", lost)
		l.saidLost = lost
	}
}

// Status is the state of a log.
type Status struct {
	File string `json:"file"`
	// Lines were written since the start, and Lost could not be. Queued are not written yet.
	Lines  int64 `json:"lines"`
	Lost   int64 `json:"lost"`
	Queued int   `json:"queued"`
	// Problem is why the file cannot be written now.
	Problem string `json:"problem,omitempty"`
}

// Status returns the current state.
func (l *Log) Status() Status {
	s := Status{File: l.path, Lines: l.lines.Load(), Lost: l.lost.Load()}
	for i := range l.queues {
		s.Queued += l.queues[i].len()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Problem = l.problem
	return s
}
