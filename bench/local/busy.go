// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// busyCommand is the command of the binary that uses a processor for a time.
var busyCommand = []string{"bench", "busy"}

// BusyLoop uses one processor for a time, and does nothing else. It is what the processes
// of a [Busy] do.
func BusyLoop(length time.Duration) {
	runtime.GOMAXPROCS(1)
	for end := time.Now().Add(length); time.Now().Before(end); {
	}
}

// beBusy runs processes for a time, or until ctx is done.
func (r *run) beBusy(ctx context.Context, f Fault) {
	text := fmt.Sprintf("%d busy processes for %s", f.Processes, formatDuration(f.Duration))
	m := r.addMark(Busy, "", text)
	processes, err := r.cluster.startBusy(f)
	if err == nil {
		r.effective(m)
		sleep(ctx, r.start.Add(f.At+f.Duration))
	}
	var used time.Duration
	for _, p := range processes {
		p.kill()
		used += p.cpu
	}
	if err != nil {
		r.fail(m, err)
		return
	}
	r.mu.Lock()
	m.Text = fmt.Sprintf("%s, which used %s of CPU time", text, used.Round(10*time.Millisecond))
	r.mu.Unlock()
}

// startBusy starts the processes of a [Busy]. The caller must kill those that it returns,
// also after an error. They end by themselves soon after their time.
func (c *Cluster) startBusy(f Fault) (list []*child, err error) {
	for i := range f.Processes {
		p, err := c.startBeside(fmt.Sprintf("busy-%d", i+1), append(slices.Clone(busyCommand), (f.Duration+time.Second).String()))
		if err != nil {
			return list, err
		}
		list = append(list, p)
	}
	return list, nil
}
