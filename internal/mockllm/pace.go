// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"context"
	"time"
)

// pace says when tokens are there. It counts the tokens of each choice; choices
// are generated side by side.
type pace struct {
	plan  *plan
	start time.Time
	timer *time.Timer // nil before the first wait
}

// at is when the n-th token is there, from 1, since the start. A stall after k
// tokens delays all later ones.
func (p *pace) at(n int64) time.Duration {
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

// made is how many tokens are there now, of most that there will be.
func (p *pace) made(most int64) int64 {
	since := time.Since(p.start)
	if most == 0 || p.at(1) > since {
		return 0
	}
	low, high := int64(1), most // at(low) <= since
	for low < high {
		mid := high - (high-low)/2
		if p.at(mid) <= since {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}

// wait returns when the n-th token is there, or false when ctx is done first.
// Token 0 is there when the first one would be.
func (p *pace) wait(ctx context.Context, n int64) bool {
	if ctx.Err() != nil {
		return false
	}
	due := p.at(max(n, 1))
	if due == forever {
		<-ctx.Done()
		return false
	}
	left := due - time.Since(p.start)
	if left <= 0 {
		return true
	}
	if p.timer == nil {
		p.timer = time.NewTimer(left)
	} else {
		p.timer.Reset(left)
	}
	select {
	case <-p.timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// early reports whether the n-th token is not there yet.
func (p *pace) early(n int64) bool { return p.at(max(n, 1)) > time.Since(p.start) }

func (p *pace) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}
