// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"errors"
	"hash/maphash"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// bodyShares is the number of shares of [Options].BodyMemory. A root has one.
const bodyShares = 8

// Codes of rejections for lack of memory.
const (
	codeBodyShare  = "body_share_exceeded"
	codeBodyMemory = "body_memory_exceeded"
)

// bodyStripes is the number of locks of a bodyBudget. Roots are spread over them.
const bodyStripes = 64

// A bodyBudget bounds the bytes of the request bodies in memory, of all roots together
// and of each. It is safe for concurrent use.
//
// A root may have its share, and no more than what is left for others afterwards. So
// six roots with their whole share change nothing for a seventh, and however many there
// are, a part of the memory is left.
type bodyBudget struct {
	total, share int64
	used         atomic.Int64
	gauge        prometheus.Gauge
	stripes      [bodyStripes]bodyStripe // by hash of the root
}

type bodyStripe struct {
	mu   sync.Mutex
	used map[string]int64 // by root; only of roots with bodies in memory
}

func newBodyBudget(o Options, gauge prometheus.Gauge) *bodyBudget {
	return &bodyBudget{total: o.BodyMemory, share: max(o.BodyMemory/bodyShares, o.MaxBodyBytes), gauge: gauge}
}

func (b *bodyBudget) stripe(root string) *bodyStripe {
	return &b.stripes[maphash.String(hashSeed, root)%bodyStripes]
}

// reserve takes n bytes for a root, or returns why it cannot.
func (b *bodyBudget) reserve(root string, n int64) *rejection {
	if n <= 0 {
		return nil
	}
	s := b.stripe(root)
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.used[root] + n
	if own > b.share {
		return &rejection{
			status: http.StatusTooManyRequests, code: codeBodyShare, discard: true,
			message: "The bodies of this caller's concurrent calls are too large together. Try again when some of them have been answered.",
		}
	}
	for {
		used := b.used.Load()
		if own > b.total-used-n {
			return &rejection{
				status: http.StatusServiceUnavailable, code: codeBodyMemory, discard: true,
				message: "The bodies of the calls of all callers are too large together, so the call was not run. Try again.",
			}
		}
		if b.used.CompareAndSwap(used, used+n) {
			break
		}
	}
	if s.used == nil {
		s.used = map[string]int64{}
	}
	s.used[root] = own
	b.gauge.Add(float64(n))
	return nil
}

func (b *bodyBudget) release(root string, n int64) {
	if n <= 0 {
		return
	}
	s := b.stripe(root)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used[root] -= n; s.used[root] == 0 {
		delete(s.used, root)
	}
	b.used.Add(-n)
	b.gauge.Sub(float64(n))
}

// decoderMemory is the memory of the decoders of one body of a root.
type decoderMemory struct {
	budget   *bodyBudget
	root     string
	reserved int64
	refused  *rejection // why it could not be reserved
}

var errNoDecoderMemory = errors.New("no memory for a decoder")

// reserve implements [coding.Options].Reserve.
func (d *decoderMemory) reserve(n int64) error {
	if d.refused = d.budget.reserve(d.root, n); d.refused != nil {
		return errNoDecoderMemory
	}
	d.reserved += n
	return nil
}

func (d *decoderMemory) release() { d.budget.release(d.root, d.reserved) }

// errBodyReleased is the error of reading a body that is no longer in memory.
var errBodyReleased = errors.New("the request body is not kept after it was read and the response has started")

// A body is the body of a metered request. Its bytes are reserved until the handler has
// read it and the response has started, or the handler has returned: until then a
// reverse proxy may have to send it again.
type body struct {
	budget   *bodyBudget
	root     string
	reserved int64
	decoded  bool   // it was received with a content coding
	bytes    []byte // while it is received; not used afterwards

	mu struct {
		sync.Mutex
		bytes     []byte // nil after it was released
		unread    int    // readers that have not read it to its end
		responded bool   // the response has started
		released  bool
	}
}

// reserve reserves n bytes in all.
func (b *body) reserve(n int64) *rejection {
	if why := b.budget.reserve(b.root, n-b.reserved); why != nil {
		return why
	}
	b.reserved = max(b.reserved, n)
	return nil
}

// publish makes content, in place of what was received, available to readers.
func (b *body) publish(content []byte) {
	b.bytes = nil
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.bytes = content
}

// content returns what was published, or nil if it was released.
func (b *body) content() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.bytes
}

// release drops the body.
func (b *body) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.releaseLocked()
}

func (b *body) releaseLocked() {
	if !b.mu.released {
		b.mu.released, b.mu.bytes = true, nil
		b.budget.release(b.root, b.reserved)
	}
}

// responseStarted records that the body will not be sent again.
func (b *body) responseStarted() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.responded = true
	if b.mu.unread == 0 {
		b.releaseLocked()
	}
}

// newReader returns a reader of the body from its start.
func (b *body) newReader() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.released {
		return nil, errBodyReleased
	}
	b.mu.unread++
	return &bodyReader{body: b}, nil
}

// bodyReader reads a body. It must not be used concurrently, except for Close.
type bodyReader struct {
	body   *body
	offset int

	// Guarded by body.mu.
	ended  bool // read to the end, or closed
	closed bool
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case r.ended && r.closed:
		return 0, http.ErrBodyReadAfterClose
	case r.ended:
		return 0, io.EOF
	case b.mu.released:
		return 0, errBodyReleased
	}
	n := copy(p, b.mu.bytes[r.offset:])
	r.offset += n
	if r.offset == len(b.mu.bytes) {
		r.endLocked()
		return n, io.EOF
	}
	return n, nil
}

// Close implements io.Closer.
func (r *bodyReader) Close() error {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	r.closed = true
	r.endLocked()
	return nil
}

func (r *bodyReader) endLocked() {
	if r.ended {
		return
	}
	r.ended = true
	if r.body.mu.unread--; r.body.mu.unread == 0 && r.body.mu.responded {
		r.body.releaseLocked()
	}
}
