// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/server"
)

const (
	// reportTimeout bounds one attempt to report calls.
	reportTimeout = 2 * time.Second
	// An owner that may have a call recognizes it by its id, for 30 s. So a call is reported
	// to such an owner until it is maxUncertainAge old, and not for longer than
	// uncertainFor.
	maxUncertainAge = 20 * time.Second
	uncertainFor    = 8 * time.Second
	// trimInterval is the time between two looks for memory that is not needed.
	trimInterval = time.Second
)

// reports are what this member has to report to owners.
type reports struct {
	due notify.Signal // for Router.report
	mu  struct {
		sync.Mutex
		partitions map[int]*partitionReport
	}
}

// partitionReport is what has to be reported to the owner of one partition.
type partitionReport struct {
	since    time.Time
	attempts int
	calls    []byte // encoded one after the other
	unknown  bool   // this member has a copy with charges of calls that it does not know
	counted  bool   // unknown is in the metric
	repaying bool   // the owners wait for Repaid
	// uncertain says that the owner may have some of calls, lost how many of them were too
	// old to be reported then.
	uncertain bool
	lost      int
}

// of returns the report of a partition. The caller holds the lock.
func (r *reports) ofLocked(partition int) *partitionReport {
	p := r.mu.partitions[partition]
	if p == nil {
		p = &partitionReport{since: time.Now()}
		r.mu.partitions[partition] = p
	}
	return p
}

// Report implements the Report of [replication.Options]. What this member has answered as
// the owner of a partition, and the present owner did not start from, is charged there,
// whatever the limits say; [Owners].Repaid is called when the owner and its heir have it.
// Report does not block. Only answered calls are reported: callers without an answer ask
// again.
func (r *Router) Report(repay continuity.Repay) {
	p := repay.Partition
	var calls []byte
	unknown, old := false, 0
	if repay.FromCopy {
		place := r.owners.Place(p)
		calls = r.answered.end(p, place.Origin, repay.After)
		// Calls whose charges an heir has acknowledged are not remembered. The present owner
		// lacks them only if that heir is lost as well.
		if repay.Uncertain {
			calls, old = since(calls, r.owners.Clock()-maxUncertainAge)
		}
		unknown = place.Owner.Boot != r.boot || place.Owner.Name != r.name || repay.After < r.owners.Acknowledged(p)
	}
	r.reports.mu.Lock()
	report := r.reports.ofLocked(p)
	report.calls = append(report.calls, calls...)
	report.unknown = report.unknown || unknown
	report.repaying = true
	report.uncertain = report.uncertain || repay.Uncertain
	report.lost += old
	r.reports.mu.Unlock()
	r.reports.due.Set()
}

// reportLate reports a call that was answered just when another member became the owner.
func (r *Router) reportLate(partition int, encoded []byte) {
	r.reports.mu.Lock()
	report := r.reports.ofLocked(partition)
	report.calls = append(report.calls, encoded...)
	r.reports.mu.Unlock()
	r.owners.Journaled(partition) // has Report called
}

// report delivers what is due until ctx is done, and frees memory that is not needed. What an owner does not answer stays, and
// is sent again when [Router.Report] is called next.
func (r *Router) report(ctx context.Context) {
	trim := time.NewTicker(trimInterval)
	defer trim.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-trim.C:
			r.answered.trim(r.owners.Acknowledged)
			r.lender.sweep()
		case <-r.reports.due.C():
			r.reportAll(ctx)
		}
	}
}

// reported is an encoded call on its way to the owner.
type reported struct {
	partition int
	encoded   []byte
}

// reportAll sends all calls once, those of many partitions together.
func (r *Router) reportAll(ctx context.Context) {
	var batch []reported
	var delivered, lost int
	flush := func() {
		d, l := r.reportBatch(ctx, batch)
		delivered, lost, batch = delivered+d, lost+l, batch[:0]
	}
	r.reports.mu.Lock()
	due := slices.Sorted(maps.Keys(r.reports.mu.partitions))
	r.reports.mu.Unlock()
	unknown := 0
	for _, p := range due {
		r.reports.mu.Lock()
		report := r.reports.mu.partitions[p]
		calls := report.calls
		report.calls = nil
		if report.unknown && !report.counted {
			report.counted = true
			unknown++
		}
		lost += report.lost
		report.lost = 0
		age := outbox.DefaultMaxAge
		if report.uncertain {
			age = uncertainFor
		}
		old := time.Since(report.since) > age
		r.reports.mu.Unlock()
		for len(calls) > 0 {
			var next []byte
			next, calls = cutCall(calls)
			if old { // the owner may have forgotten that it has it
				lost++
				continue
			}
			if batch = append(batch, reported{p, next}); len(batch) == server.MaxBatchItems {
				flush()
			}
		}
	}
	flush()
	for _, p := range due {
		r.reports.mu.Lock()
		report := r.reports.mu.partitions[p]
		report.attempts++
		done := len(report.calls) == 0
		if done {
			delete(r.reports.mu.partitions, p)
		}
		r.reports.mu.Unlock()
		if done && report.repaying {
			r.owners.Repaid(p)
		}
	}
	r.metrics.repaid.Add(float64(delivered))
	r.metrics.repayLost.Add(float64(lost))
	r.metrics.repayUnknown.Add(float64(unknown))
	if delivered > 0 {
		r.log.Info("charges reported to their new owners", "calls", delivered)
	}
	if lost > 0 {
		r.log.Error("charges lost: their new owners rejected them, or did not answer for too long", "calls", lost)
	}
	if unknown > 0 {
		r.log.Error("charges lost: the only copy that has them was found too late", "partitions", unknown)
	}
}

// reportBatch sends calls to their owners and keeps those that are not answered. It returns
// how many were charged, and how many were rejected for good.
func (r *Router) reportBatch(ctx context.Context, batch []reported) (delivered, lost int) {
	if len(batch) == 0 {
		return 0, 0
	}
	calls := make([]call.Call, 0, len(batch))
	sent := batch[:0:0]
	for _, one := range batch {
		c, err := decodeCall(one.encoded)
		if err != nil {
			lost++
			continue
		}
		calls, sent = append(calls, c), append(sent, one)
	}
	limited, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	results := r.Do(limited, calls)
	defer results.Release()
	for i, one := range sent {
		result := results.Get(i)
		err := server.ErrorOf(result)
		_, final := outbox.ReasonOf(err)
		switch {
		case err == nil:
			delivered++
		case isWithdrawn(result):
		case final:
			lost++
		default:
			r.reports.mu.Lock()
			report := r.reports.ofLocked(one.partition)
			report.calls = append(report.calls, one.encoded...)
			r.reports.mu.Unlock()
		}
	}
	return delivered, lost
}
