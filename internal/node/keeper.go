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
	snapshotName = "state.snapshot" // all state
	lockName     = "lock"           // held by the node that uses the directory
	asideMark    = ".corrupt-"      // between snapshotName and when it was found to be
)

// keeper keeps the engine's state in a file, so that what was spent stays spent
// across a restart. A crash loses what was used since the last snapshot.
type keeper struct {
	path   string
	lock   io.Closer
	engine *limiter.Engine
	now    func() limiter.Time
	log    *slog.Logger

	size, last, damaged prometheus.Gauge
	failures            prometheus.Counter
}

// newKeeper makes the directory if it is not there, and takes it for this
// process until the keeper is closed: two nodes would overwrite each other's
// snapshots.
func newKeeper(dir string, engine *limiter.Engine, now func() limiter.Time, log *slog.Logger, reg prometheus.Registerer) (*keeper, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := snapshotfile.Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	f := promauto.With(reg)
	return &keeper{
		path: filepath.Join(dir, snapshotName), lock: lock, engine: engine, now: now, log: log,
		size:     f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_snapshot_size_bytes", Help: "Size of the last snapshot written."}),
		last:     f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_snapshot_last_success_timestamp_seconds", Help: "When the last snapshot was written."}),
		damaged:  f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_snapshots_kept_aside", Help: "Corrupt snapshots in the data directory that were never restored."}),
		failures: f.NewCounter(prometheus.CounterOpts{Name: "bucketring_snapshot_failures_total", Help: "Snapshots that could not be written."}),
	}, nil
}

// restore brings back what the last snapshot holds, older by the time that has
// passed since. A corrupt file is moved aside and is an error: whether to go on
// without what it knew is not for the node to decide. As long as the file lies
// there, every start says so.
func (k *keeper) restore() error {
	aside, err := k.aside()
	if err != nil {
		return fmt.Errorf("look for corrupt snapshots: %w", err)
	}
	if k.damaged.Set(float64(len(aside))); len(aside) > 0 {
		k.log.Warn("usage in a corrupt snapshot is not counted: delete the file to end this warning", "files", aside)
	}
	var oldest time.Duration
	partitions := 0
	err = snapshotfile.Read(k.path, func(partition int, data []byte, wall int64) error {
		now := k.now()
		downtime := max(0, time.Duration(now.Wall-wall)) // a clock set back is no downtime
		oldest = max(oldest, downtime)
		partitions++
		return k.engine.Restore(now.Add(-downtime), partition, data, time.LoadLocation)
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		k.log.Info("no snapshot to restore", "path", k.path)
		return nil
	case errors.Is(err, snapshotfile.ErrCorrupt):
		to := k.path + asideMark + time.Unix(0, k.now().Wall).UTC().Format("20060102T150405.000")
		if moved := os.Rename(k.path, to); moved != nil {
			return errors.Join(err, fmt.Errorf("keep it aside: %w", moved))
		}
		return fmt.Errorf("%w; it was kept as %s: the next start begins with nothing used", err, to)
	case err != nil:
		return err
	}
	k.log.Info("snapshot restored", "path", k.path, "partitions", partitions, "age", oldest.Round(time.Millisecond))
	return nil
}

// aside lists the corrupt snapshots that were kept.
func (k *keeper) aside() (files []string, err error) {
	entries, err := os.ReadDir(filepath.Dir(k.path))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), snapshotName+asideMark) {
			files = append(files, e.Name())
		}
	}
	return files, err
}

func (k *keeper) close() error { return k.lock.Close() }

// save writes a snapshot, holding each partition's lock only while it is read.
func (k *keeper) save() error {
	size, err := snapshotfile.Write(k.path, limiter.Partitions, func(partition int, buf []byte) ([]byte, int64) {
		now := k.now()
		return k.engine.Snapshot(now, partition, buf), now.Wall
	})
	if err != nil {
		k.failures.Inc()
		return err
	}
	k.size.Set(float64(size))
	k.last.Set(float64(k.now().Wall) / 1e9)
	return nil
}

// run saves every so often until ctx is done. The last snapshot is for the
// shutdown to take, when nothing is decided any more.
func (k *keeper) run(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := k.save()
		switch {
		case err != nil && !failing:
			k.log.Error("cannot write snapshots", "error", err)
		case err == nil && failing:
			k.log.Info("writing snapshots again")
		}
		failing = err != nil
	}
}
