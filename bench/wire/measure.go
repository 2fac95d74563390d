// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// call sends one call. caller is the number of the goroutine, turn counts its calls. It
// returns how many checks the call contained.
type call func(ctx context.Context, caller, turn int) (checks int, err error)

// sample is the result of one row in one round.
type sample struct {
	perSecond float64       // checks
	p50, p99  time.Duration // of a call
	serverCPU time.Duration // per million checks, of all servers
}

// warmup is not part of any sample.
const warmup = 300 * time.Millisecond

// loop runs callers in a closed loop for a time, or for as long as one call takes if that is
// longer.
func loop(ctx context.Context, ask call, callers int, length time.Duration, servers *server) (sample, error) {
	var (
		group     sync.WaitGroup
		measuring atomic.Bool
		stopping  atomic.Bool
		failure   atomic.Pointer[error]
		known     = make(chan struct{}) // closed when a call has counted or failed
		know      = sync.OnceFunc(func() { close(known) })
		checks    = make([]int, callers)
		took      = make([][]time.Duration, callers)
	)
	for i := range callers {
		took[i] = make([]time.Duration, 0, 1<<14)
		group.Go(func() {
			for turn := 0; !stopping.Load(); turn++ {
				began, counts := time.Now(), measuring.Load()
				n, err := ask(ctx, i, turn)
				if err != nil {
					failure.CompareAndSwap(nil, &err)
					know()
					return
				}
				if counts && measuring.Load() {
					took[i] = append(took[i], time.Since(began))
					checks[i] += n
					know()
				}
			}
		})
	}
	pause(ctx, warmup)
	cpu, began := servers.cpu(), time.Now()
	measuring.Store(true)
	pause(ctx, length)
	waitFor(ctx, known, callTimeout)
	measuring.Store(false)
	elapsed, used := time.Since(began), servers.cpu()-cpu
	stopping.Store(true)
	group.Wait()
	if err := failure.Load(); err != nil {
		return sample{}, *err
	}
	all, sum := slices.Concat(took...), 0
	for _, n := range checks {
		sum += n
	}
	if sum == 0 {
		return sample{}, fmt.Errorf("no call ended within %s", elapsed.Round(time.Millisecond))
	}
	slices.Sort(all)
	return sample{
		perSecond: float64(sum) / elapsed.Seconds(),
		p50:       all[len(all)/2],
		p99:       all[len(all)*99/100],
		serverCPU: time.Duration(float64(used) / float64(sum) * 1e6),
	}, ctx.Err()
}

// median returns the median of each field separately.
func median(samples []sample) sample {
	return sample{
		perSecond: middle(samples, func(s sample) float64 { return s.perSecond }),
		p50:       middle(samples, func(s sample) time.Duration { return s.p50 }),
		p99:       middle(samples, func(s sample) time.Duration { return s.p99 }),
		serverCPU: middle(samples, func(s sample) time.Duration { return s.serverCPU }),
	}
}

func middle[S any, T float64 | time.Duration](samples []S, of func(S) T) T {
	values := make([]T, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
