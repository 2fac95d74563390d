// SPDX-License-Identifier: Apache-2.0

package coding

import (
	"bufio"
	"io"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

const (
	// flateMemory is what a decoder of gzip or deflate takes: a window of 32 KiB, its
	// tables and its buffer.
	flateMemory = 64 << 10
	// zstdMemory is what a decoder of zstd takes besides its window.
	zstdMemory = 512 << 10

	// The windows of zstd decoders. RFC 9659 allows 8 MiB at most.
	minWindow, maxWindow = 1 << 20, 8 << 20
)

// A kind is a sort of decoder.
type kind struct {
	coding Coding
	raw    bool  // deflate without a header
	window int64 // of zstd, one of windows
}

// windows is the number of window sizes: 1, 2, 4 and 8 MiB.
const windows = 4

// kindOf returns the decoder for a body, from its first bytes.
func kindOf(c Coding, body *bufio.Reader) (kind, error) {
	k := kind{coding: c}
	switch c {
	case Deflate:
		head, err := body.Peek(2)
		if err != nil {
			return k, err
		}
		k.raw = head[0]&0x0f != 8 || (int(head[0])<<8|int(head[1]))%31 != 0
	case Zstd:
		head, err := body.Peek(zstd.HeaderMaxSize)
		if err != nil && err != io.EOF {
			return k, err
		}
		var header zstd.Header
		if err := header.Decode(head); err != nil {
			return k, err
		}
		k.window = windowFor(&header)
	}
	return k, nil
}

// windowFor returns the window for a body that starts with a frame. A later frame that
// needs a larger one makes the body invalid.
func windowFor(h *zstd.Header) int64 {
	if h.Skippable {
		return maxWindow
	}
	need := h.WindowSize
	if h.SingleSegment {
		need = h.FrameContentSize
	}
	if need <= minWindow {
		return minWindow
	}
	if need > maxWindow { // the decoder refuses it
		return maxWindow
	}
	return 1 << bits.Len64(need-1)
}

// memory returns the most that a decoder of the kind takes.
func (k kind) memory() int64 {
	if k.coding == Zstd {
		return k.window + zstdMemory
	}
	return flateMemory
}

// A decoder decodes source.
type decoder struct {
	io.Reader
	source *bufio.Reader
	pool   *sync.Pool // nil: it is not kept
}

// Decoders that are not in use. Those of zstd are by window.
var (
	gzipPool  sync.Pool
	zstdPools [windows]sync.Pool
)

// decoder returns a decoder of the kind that reads body.
func (k kind) decoder(body *bufio.Reader) (*decoder, error) {
	switch {
	case k.coding == Zstd:
		return k.zstd(body)
	case k.coding == Gzip:
		r, _ := gzipPool.Get().(*gzip.Reader)
		if r == nil {
			r = new(gzip.Reader)
		}
		if err := r.Reset(body); err != nil {
			return nil, err
		}
		return &decoder{Reader: r, source: body, pool: &gzipPool}, nil
	case k.raw:
		return &decoder{Reader: flate.NewReader(body), source: body}, nil
	}
	r, err := zlib.NewReader(body)
	if err != nil {
		return nil, err
	}
	return &decoder{Reader: r, source: body}, nil
}

func (k kind) zstd(body *bufio.Reader) (*decoder, error) {
	pool := &zstdPools[bits.Len64(uint64(k.window/minWindow))-1]
	r, _ := pool.Get().(*zstd.Decoder)
	if r == nil {
		var err error
		if r, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(uint64(k.window)), zstd.WithDecoderMaxMemory(uint64(k.window))); err != nil {
			return nil, err
		}
	}
	if err := r.Reset(body); err != nil {
		return nil, err
	}
	return &decoder{Reader: r, source: body, pool: pool}, nil
}

// release keeps the decoder for another body, without a reference to this one.
func (d *decoder) release() {
	d.source.Reset(nil)
	if r, ok := d.Reader.(*zstd.Decoder); ok {
		_ = r.Reset(nil) // never fails
	}
	if d.pool != nil {
		d.pool.Put(d.Reader)
	}
}
