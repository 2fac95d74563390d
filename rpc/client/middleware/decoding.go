// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"errors"
	"io"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/rpc/internal/coding"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// maxDecodedResponse bounds what is decoded of a response, and so the time that a response
// which decodes to very much can take.
const maxDecodedResponse = 64 << 20

// errInterrupted is the error of reading a response that was not written to its end.
var errInterrupted = errors.New("the response was interrupted")

// A decoding meters a response with content codings while the caller gets the bytes as
// they come. Its goroutine runs from the first write until close, and is the only user of
// the meter in that time.
type decoding struct {
	codings []coding.Coding
	meter   *llm.Meter
	call    *Call
	memory  decoderMemory

	pipe   *io.PipeWriter // nil: nothing was written
	done   chan struct{}  // closed when the goroutine ends
	failed bool           // the rest cannot be decoded; set before done is closed
}

func (w *writer) newDecoding(codings []coding.Coding) *decoding {
	return &decoding{
		codings: codings, meter: w.meter, call: w.call,
		memory: decoderMemory{budget: w.bodies, root: keypath.Root(w.call.Key())},
	}
}

// write decodes and meters p, which it does not keep.
func (d *decoding) write(p []byte) {
	if d.pipe == nil {
		var source *io.PipeReader
		source, d.pipe = io.Pipe()
		d.done = make(chan struct{})
		go d.run(source)
	}
	_, _ = d.pipe.Write(p) // fails at once after the goroutine has ended
}

func (d *decoding) run(source *io.PipeReader) {
	defer close(d.done)
	defer func() { _ = source.Close() }() // unblocks write
	r := coding.NewReader(source, coding.Options{Codings: d.codings, MaxBytes: maxDecodedResponse, Reserve: d.memory.reserve})
	defer r.Close()
	buffer := make([]byte, 4<<10)
	for {
		n, err := r.Read(buffer)
		if n > 0 {
			d.meter.Process(buffer[:n])
			d.call.recordOutput(d.meter.StreamedTokens())
		}
		if err != nil {
			d.failed = !errors.Is(err, io.EOF) && !errors.Is(err, errInterrupted)
			return
		}
	}
}

// close waits until all that was written is metered, and reports whether it was.
func (d *decoding) close(interrupted bool) bool {
	if d.pipe == nil {
		return true
	}
	var cause error // io.EOF
	if interrupted {
		cause = errInterrupted
	}
	_ = d.pipe.CloseWithError(cause) // always nil
	<-d.done
	d.memory.release()
	return !d.failed
}
