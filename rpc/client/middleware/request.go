// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/coding"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// codeUnsupportedEncoding is the code of rejections for a coding that is not decoded.
const codeUnsupportedEncoding = "unsupported_content_encoding"

// maxDiscard bounds how much of a rejected body is read and discarded, so that the
// caller sees the response instead of a broken connection.
const maxDiscard = 16 << 20

// The first buffer of a body whose length is declared, at most, and of another one.
const (
	firstDeclared = 64 << 10
	firstChunked  = 4 << 10
)

// readBody reads the body of a metered request of a root, and decodes it. The bytes that
// are declared are reserved before; the buffer grows with those that arrive. The caller
// must release the body.
func (m *Middleware) readBody(x exchange, root string) (*body, *rejection) {
	bounded := m.boundRead(x)
	codings, err := coding.Of(x.r.Header)
	if err != nil {
		return nil, &rejection{
			status: http.StatusUnsupportedMediaType, code: codeUnsupportedEncoding, discard: true,
			message: fmt.Sprintf("The body cannot be read: %v. Send it without encoding, or with one of %s.", err, coding.Accepted),
		}
	}
	b := &body{budget: m.bodies, root: root, decoded: len(codings) > 0}
	var why *rejection
	switch declared := x.r.ContentLength; {
	case declared > m.options.MaxBodyBytes:
		why = m.tooLarge()
	case b.decoded:
		why = m.decode(b, x.r.Body, codings)
	default:
		why = m.receive(b, x.r.Body, declared)
	}
	if why != nil {
		b.release()
		return nil, why
	}
	if bounded {
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Time{}) // the server reads on to detect a disconnect
	}
	return b, nil
}

// boundRead sets a deadline for reading the body, unless the server has one, and
// reports whether it did. The deadline also holds for what is discarded.
func (m *Middleware) boundRead(x exchange) bool {
	if m.options.BodyTimeout < 0 {
		return false
	}
	if s, ok := x.r.Context().Value(http.ServerContextKey).(*http.Server); ok && s.ReadTimeout > 0 {
		return false
	}
	return http.NewResponseController(x.w).SetReadDeadline(time.Now().Add(m.options.BodyTimeout)) == nil
}

func (m *Middleware) tooLarge() *rejection {
	return &rejection{
		status: http.StatusRequestEntityTooLarge, code: "request_too_large", discard: true,
		message: fmt.Sprintf("The body is larger than %d bytes.", m.options.MaxBodyBytes),
	}
}

// decode reads b.bytes from a source with content codings. The memory of the decoders is
// reserved until then.
func (m *Middleware) decode(b *body, source io.Reader, codings []coding.Coding) (why *rejection) {
	memory := decoderMemory{budget: m.bodies, root: b.root}
	defer memory.release()
	r := coding.NewReader(source, coding.Options{Codings: codings, MaxBytes: m.options.MaxBodyBytes, Reserve: memory.reserve})
	defer r.Close()
	why = m.receive(b, r, -1)
	if memory.refused != nil {
		return memory.refused
	}
	return why
}

// receive reads b.bytes from a source of declared bytes, or of an unknown number if that
// is negative.
func (m *Middleware) receive(b *body, source io.Reader, declared int64) *rejection {
	most := m.options.MaxBodyBytes
	size := min(declared, firstDeclared)
	if declared < 0 {
		size = min(most, firstChunked)
	}
	if why := b.reserve(max(size, declared)); why != nil {
		return why
	}
	buffer := make([]byte, 0, size+llm.SpareBytes)
	for {
		n, err := source.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		length := int64(len(buffer))
		if length > most {
			return m.tooLarge()
		}
		if errors.Is(err, io.EOF) {
			b.bytes = buffer
			return nil
		}
		if err != nil {
			return m.unreadable(err)
		}
		if len(buffer) < cap(buffer) {
			continue
		}
		size = min(2*length, most)
		if declared > length {
			size = min(size, declared)
		}
		if why := b.reserve(size); why != nil {
			return why
		}
		grown := make([]byte, length, size+llm.SpareBytes)
		copy(grown, buffer)
		buffer = grown
	}
}

// unreadable is the response to a body that could not be read because of err.
func (m *Middleware) unreadable(err error) *rejection {
	if _, bounded := errors.AsType[*http.MaxBytesError](err); bounded || errors.Is(err, coding.ErrTooLarge) {
		return m.tooLarge()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &rejection{status: http.StatusRequestTimeout, code: "request_timeout", message: "The body was not received in time."}
	}
	if invalid, ok := errors.AsType[*coding.InvalidError](err); ok {
		return &rejection{
			status: http.StatusBadRequest, code: "invalid_content_encoding", discard: true,
			message: fmt.Sprintf("The body cannot be decoded: %v.", invalid),
		}
	}
	return &rejection{status: http.StatusBadRequest, code: "unreadable_body", message: "The body could not be read to its end."}
}

// withBody returns a copy of r whose body is content, which b holds, without encoding.
// changed is true if it is not what was received. It asks for a response without
// encoding: the usage in it is read.
func withBody(r *http.Request, b *body, content []byte, changed bool) *http.Request {
	b.publish(content)
	r2 := r.Clone(r.Context())
	r2.Body, _ = b.newReader() // not released yet
	r2.GetBody = b.newReader
	r2.ContentLength, r2.TransferEncoding, r2.Trailer = int64(len(content)), nil, nil
	r2.Header.Set("Content-Length", strconv.Itoa(len(content)))
	r2.Header.Del("Expect") // the body has been read
	r2.Header.Del("Content-Encoding")
	r2.Header.Set("Accept-Encoding", "identity")
	if changed || b.decoded {
		for _, digest := range [...]string{"Content-Digest", "Content-MD5", "Digest", "Repr-Digest"} {
			r2.Header.Del(digest)
		}
	}
	return r2
}

// checkModel rejects the name of a model that no node accepts. Without a node, it would be
// charged to nobody, and kept until one answers.
func checkModel(model string) *rejection {
	problem := text.Problem(model, 0, text.MaxNameBytes)
	if problem == "" {
		return nil
	}
	return &rejection{
		status: http.StatusBadRequest, code: "invalid_value", param: "model",
		message: "model: " + problem + ", got " + text.Quote(model),
	}
}

// classOf returns the class that a request names, "" if it names none.
func classOf(r *http.Request) (client.Priority, *rejection) {
	values := r.Header.Values(headerPriority)
	if len(values) == 0 {
		return "", nil
	}
	if class := client.Priority(values[0]); len(values) == 1 {
		switch class {
		case client.Interactive, client.Standard, client.Batch:
			return class, nil
		}
	}
	return "", &rejection{
		status: http.StatusBadRequest, code: "invalid_header", param: headerPriority,
		message: fmt.Sprintf("%s: must be interactive, standard or batch, got %s", headerPriority, text.Quote(strings.Join(values, ", "))),
	}
}

// minOutput returns the MinOutputTokens of the estimate for a request.
func (m *Middleware) minOutput(r *http.Request, q *llm.Request) (int64, *rejection) {
	minimum, forbid := m.options.MinOutputTokens, q.NoTruncation && !m.options.DegradeStructuredOutput
	switch values := r.Header.Values(headerMinOutput); {
	case len(values) == 0:
	case len(values) == 1 && strings.EqualFold(values[0], "forbid"):
		forbid = true
	default:
		n, err := strconv.ParseInt(values[0], 10, 64)
		if err != nil || n < 1 || n > amount.Max || len(values) > 1 {
			return 0, &rejection{
				status: http.StatusBadRequest, code: "invalid_header", param: headerMinOutput,
				message: fmt.Sprintf("%s: must be one whole number of at least 1, or forbid, got %s", headerMinOutput, text.Quote(strings.Join(values, ", "))),
			}
		}
		minimum, forbid = n, false
	}
	if q.MaxOutput == 0 {
		return 0, nil // no output to degrade
	}
	// Nodes apply their own default, unless the request needs more than that.
	if nodeDefault := max(256, q.MaxOutput/8); minimum == 0 && q.MinOutput > nodeDefault {
		minimum = q.MinOutput
	}
	if minimum > 0 {
		minimum = max(minimum, q.MinOutput)
	}
	if forbid {
		minimum = amount.Max
	}
	if q.MaxOutput > 0 {
		minimum = min(minimum, q.MaxOutput)
	}
	return minimum, nil
}
