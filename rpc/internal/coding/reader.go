// SPDX-License-Identifier: Apache-2.0

package coding

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Options configure a [Reader].
type Options struct {
	Codings []Coding // in the order in which they were applied
	// MaxBytes bounds the encoded bytes, and what each coding decodes to.
	MaxBytes int64
	// Reserve is called with the memory of each decoder before it is used. An error ends
	// the reading with it. The caller releases the memory after Close. Nil: not called.
	Reserve func(bytes int64) error
}

// A Reader decodes a body as it arrives. It is not safe for concurrent use.
//
// Its errors are those of the source, of Reserve, ErrTooLarge, or an [InvalidError].
type Reader struct {
	options Options
	source  input
	stages  []*stage // the first one reads source, each other one the one before
	err     error
}

// NewReader returns a reader of the decoded body of source. The caller must close it.
func NewReader(source io.Reader, o Options) *Reader {
	return &Reader{options: o, source: input{r: source, left: o.MaxBytes}}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil { // a decoder has a bug that these bytes trigger
			r.stages = nil // their state is unknown
			r.err = &InvalidError{r.options.Codings[0], fmt.Errorf("the decoder failed: %v", v)}
			n, err = 0, r.err
		}
	}()
	if r.err == nil && len(r.stages) < len(r.options.Codings) {
		r.err = r.open()
	}
	if r.err != nil || len(p) == 0 {
		return 0, r.err
	}
	n, err = r.stages[len(r.stages)-1].output.Read(p)
	r.err = err
	return n, err
}

// open starts the decoders, which read the headers of their codings.
func (r *Reader) open() error {
	in := &r.source
	for _, c := range slices.Backward(r.options.Codings) {
		s := &stage{coding: c, in: in}
		s.output = input{r: s, left: r.options.MaxBytes}
		r.stages = append(r.stages, s)
		if err := s.open(r.options.Reserve); err != nil {
			return err
		}
		in = &s.output
	}
	return nil
}

// Close returns the memory of the decoders. It does not close the source.
func (r *Reader) Close() {
	for _, s := range r.stages {
		if s.decoder != nil {
			s.decoder.release()
			s.decoder = nil
		}
	}
	r.err = errClosed
}

var errClosed = errors.New("read after close")

// A stage decodes one coding.
type stage struct {
	coding  Coding
	in      *input
	decoder *decoder
	output  input // reads the stage
}

func (s *stage) open(reserve func(int64) error) error {
	buffered := bufio.NewReader(s.in)
	kind, err := kindOf(s.coding, buffered)
	if err != nil {
		return s.cause(err)
	}
	if reserve != nil {
		if err := reserve(kind.memory()); err != nil {
			return err
		}
	}
	if s.decoder, err = kind.decoder(buffered); err != nil {
		return s.cause(err)
	}
	return nil
}

// Read implements io.Reader.
func (s *stage) Read(p []byte) (int, error) {
	n, err := s.decoder.Read(p)
	if errors.Is(err, io.EOF) {
		if _, more := s.decoder.source.ReadByte(); more == nil {
			err = &InvalidError{s.coding, errors.New("bytes after the end")}
		} else if !errors.Is(more, io.EOF) {
			err = s.cause(more)
		}
		return n, err
	}
	if err != nil {
		err = s.cause(err)
	}
	return n, err
}

// cause returns why a decoder failed: because of its input, or because that is invalid.
func (s *stage) cause(err error) error {
	if s.in.err != nil && !errors.Is(s.in.err, io.EOF) {
		return s.in.err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &InvalidError{s.coding, err}
}

// An input is a bounded reader that keeps its error, since decoders return others.
type input struct {
	r    io.Reader
	left int64
	err  error
}

// Read implements io.Reader.
func (i *input) Read(p []byte) (int, error) {
	if i.err != nil {
		return 0, i.err
	}
	if int64(len(p)) > i.left+1 { // one more tells whether there are more
		p = p[:i.left+1]
	}
	n, err := i.r.Read(p)
	if int64(n) > i.left {
		n, err = int(i.left), ErrTooLarge
	}
	i.left -= int64(n)
	i.err = err
	return n, err
}
