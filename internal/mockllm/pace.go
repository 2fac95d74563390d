// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"context"
	"time"
)

// pace schedules the tokens of a response. All choices are generated in parallel, so
// token n is due for each of them at the same time.
type pace struct {
	plan  *plan
	start time.Time
	timer *time.Timer // nil before the first wait
}

// due returns the time from the start to token n, counted from 1. A stall delays all
// tokens after it.
func (p *pace) due(n int64) time.Duration {
	d := p.plan.ttft
	if p.plan.speed > 0 {
		d += time.Duration(float64(n-1) / p.plan.speed * float64(time.Second))
	}
	if n > p.plan.stallAfter {
		if p.plan.stall == forever {
			return forever
		}
		d += p.plan.stall
	}
	return d
}

// generated returns how many of most tokens are due now.
func (p *pace) generated(most int64) int64 {
	since := time.Since(p.start)
	if most == 0 || p.due(1) > since {
		return 0
	}
	low, high := int64(1), most // due(low) <= since
	for low < high {
		mid := high - (high-low)/2
		if p.due(mid) <= since {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}

// wait waits until token n is due. It returns false if ctx is done first. Token 0 is
// due with the first token.
func (p *pace) wait(ctx context.Context, n int64) bool {
	if ctx.Err() != nil {
		return false
	}
	at := p.due(max(n, 1))
	if at == forever {
		<-ctx.Done()
		return false
	}
	remaining := at - time.Since(p.start)
	if remaining <= 0 {
		return true
	}
	if p.timer == nil {
		p.timer = time.NewTimer(remaining)
	} else {
		p.timer.Reset(remaining)
	}
	select {
	case <-p.timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// pending reports whether token n is not due yet.
func (p *pace) pending(n int64) bool { return p.due(max(n, 1)) > time.Since(p.start) }

func (p *pace) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}
