// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"sync"
	"time"
)

// pacer bounds the bytes that are sent in a second, for all copiers together.
type pacer struct {
	rate int // bytes in a second

	mu struct {
		sync.Mutex
		next time.Time // when the next bytes may be sent
	}
}

// pace waits until n bytes may be sent.
func (p *pacer) pace(ctx context.Context, n int) error {
	now := time.Now()
	p.mu.Lock()
	if p.mu.next.Before(now) {
		p.mu.next = now
	}
	wait := p.mu.next.Sub(now)
	p.mu.next = p.mu.next.Add(time.Duration(int64(n) * int64(time.Second) / int64(p.rate)))
	p.mu.Unlock()
	if wait < time.Millisecond { // timers are not more exact
		return ctx.Err()
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
