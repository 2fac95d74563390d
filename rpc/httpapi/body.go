// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
)

const (
	// maxBody is the largest body that is accepted, in bytes.
	maxBody = 1 << 20
	// maxDiscard is how much of a larger body is read, so that its sender sees the
	// answer and not a broken connection.
	maxDiscard = 16 << 20
	// maxPooled is the largest buffer that is kept for the next call.
	maxPooled = 16 << 10
)

// readBody reads the JSON object in the body of r into fields.
func (a *api) readBody(w http.ResponseWriter, r *http.Request, fields []field) error {
	b := a.buffer()
	defer a.release(b)
	if _, err := b.ReadFrom(io.LimitReader(r.Body, maxBody+1)); err != nil {
		return invalid("body", "could not be read: "+err.Error())
	}
	if b.Len() > maxBody {
		return discard(w, r)
	}
	return readObject(b.Bytes(), fields)
}

// discard reads the rest of a body that is too large, and returns the error.
func discard(w http.ResponseWriter, r *http.Request) error {
	rest := int64(maxDiscard - maxBody - 1)
	if n, err := io.CopyN(io.Discard, r.Body, rest); err == nil && n == rest {
		w.Header().Set("Connection", "close") // the body may be longer still
	}
	return &problem{
		status:  http.StatusRequestEntityTooLarge,
		Code:    "body_too_large",
		Field:   "body",
		Message: "body: must be at most " + strconv.Itoa(maxBody) + " bytes",
	}
}

func (a *api) buffer() *bytes.Buffer { return a.buffers.Get().(*bytes.Buffer) }

// release returns b to the pool. Its bytes must not be used any more.
func (a *api) release(b *bytes.Buffer) {
	if b.Cap() <= maxPooled {
		b.Reset()
		a.buffers.Put(b)
	}
}
