// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bucketring/bucketring/internal/snapshotfile"
	"github.com/bucketring/bucketring/limiter"
)

// Files in the data directory.
const (
	snapshotName  = "state.snapshot" // all state
	lockName      = "lock"           // locked by the node that uses the directory
	corruptSuffix = ".corrupt-"      // followed by the time when a snapshot was found to be corrupt
)

// snapshotter writes the engine's state to a file and restores it, so that usage
// survives a restart. A crash loses the usage since the last snapshot.
type snapshotter struct {
	path   string
	lock   io.Closer
	engine *limiter.Engine
	now    func() limiter.Time
	log    *slog.Logger

	size, last, corrupt prometheus.Gauge
	failures            prometheus.Counter
}

// newSnapshotter creates the directory if necessary and locks it until close is
// called: two nodes would overwrite each other's snapshots.
func newSnapshotter(dir string, engine *limiter.Engine, now func() limiter.Time, log *slog.Logger, reg prometheus.Registerer) (*snapshotter, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	lock, err := snapshotfile.Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	f := promauto.With(reg)
	return &snapshotter{
		path: filepath.Join(dir, snapshotName), lock: lock, engine: engine, now: now, log: log,
		size:     f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_snapshot_size_bytes", Help: "Size of the last snapshot written."}),
		last:     f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_snapshot_last_success_timestamp_seconds", Help: "When the last snapshot was written."}),
		corrupt:  f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_corrupt_snapshots", Help: "Corrupt snapshots in the data directory, which were not restored."}),
		failures: f.NewCounter(prometheus.CounterOpts{Name: "bucketring_snapshot_failures_total", Help: "Snapshots that could not be written."}),
	}, nil
}

// restore restores the last snapshot as of now, so levels have refilled and leases
// have expired in the meantime. A corrupt file is renamed and returned as an error,
// because an operator must decide whether to start without its usage. The next
// starts log a warning as long as the renamed file exists.
func (s *snapshotter) restore() error {
	corrupt, err := s.corruptFiles()
	if err != nil {
		return fmt.Errorf("look for corrupt snapshots: %w", err)
	}
	if s.corrupt.Set(float64(len(corrupt))); len(corrupt) > 0 {
		s.log.Warn("usage in a corrupt snapshot is not counted: delete the files to end this warning", "files", corrupt)
	}
	var oldest time.Duration
	partitions := 0
	err = snapshotfile.ReadOld(s.path, func(partition int, data []byte, wall int64) error {
		now := s.now()
		downtime := max(0, time.Duration(now.Wall-wall)) // negative if the clock was set back
		oldest = max(oldest, downtime)
		partitions++
		return s.engine.Restore(now.Add(-downtime), partition, data, time.LoadLocation)
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		s.log.Info("no snapshot to restore", "path", s.path)
		return nil
	case errors.Is(err, snapshotfile.ErrCorrupt):
		to := s.path + corruptSuffix + time.Unix(0, s.now().Wall).UTC().Format("20060102T150405.000")
		if moved := os.Rename(s.path, to); moved != nil {
			return errors.Join(err, fmt.Errorf("rename it: %w", moved))
		}
		return fmt.Errorf("%w; it was renamed to %s: the next start begins without usage", err, to)
	case err != nil:
		return err
	}
	s.log.Info("snapshot restored", "path", s.path, "partitions", partitions, "age", oldest.Round(time.Millisecond))
	return nil
}

// corruptFiles lists the corrupt snapshots in the data directory.
func (s *snapshotter) corruptFiles() (files []string, err error) {
	entries, err := os.ReadDir(filepath.Dir(s.path))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), snapshotName+corruptSuffix) {
			files = append(files, e.Name())
		}
	}
	return files, err
}

func (s *snapshotter) close() error { return s.lock.Close() }

// save writes a snapshot. It locks one partition at a time.
func (s *snapshotter) save() error {
	size, err := snapshotfile.Write(s.path, limiter.Partitions, func(partition int, buf []byte) ([]byte, int64) {
		now := s.now()
		return s.engine.Snapshot(now, partition, buf), now.Wall
	})
	if err != nil {
		s.failures.Inc()
		return err
	}
	s.size.Set(float64(size))
	s.last.Set(float64(s.now().Wall) / 1e9)
	return nil
}

// run saves at an interval until ctx is done. The shutdown saves once more when no
// more calls are decided.
func (s *snapshotter) run(ctx context.Context, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := s.save()
		switch {
		case err != nil && !failing:
			s.log.Error("snapshot failed, retrying", "path", s.path, "error", err)
		case err == nil && failing:
			s.log.Info("snapshots succeed again", "path", s.path)
		}
		failing = err != nil
	}
}
