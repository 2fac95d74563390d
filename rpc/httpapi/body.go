// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/internal/share"
	"github.com/bucketring/bucketring/rpc/server"
)

const (
	// maxBody is the largest body that is accepted, in bytes.
	maxBody = 1 << 20
	// maxDiscard is how much of a larger body is read, so that its sender sees the
	// answer and not a broken connection.
	maxDiscard = 16 << 20
	// smallBody is how much of a body is read without a share of maxBodies, which is how
	// many bytes of larger bodies may be in memory, and maxBodiesPerAddress those of one
	// remote address. A buffer may be twice as large as what is in it.
	smallBody           = 16 << 10
	maxBodies           = 64 << 20
	maxBodiesPerAddress = 16 << 20
	// maxPooled is the largest buffer that is kept for the next call.
	maxPooled = 16 << 10
)

var tooManyBodies = "too many large bodies are being read, of this address or of all: those of less than " + strconv.Itoa(smallBody) + " bytes are not limited"

// readBody reads the JSON object in the body of r into fields.
func (a *api) readBody(w http.ResponseWriter, r *http.Request, fields []field) error {
	b := a.buffer()
	defer a.release(b)
	if _, err := b.ReadFrom(io.LimitReader(r.Body, smallBody)); err != nil {
		return incomplete(err)
	}
	if b.Len() == smallBody { // there may be more
		if r.ContentLength > maxBody {
			return discard(w, r, smallBody)
		}
		size, from := int64(maxBody), remoteAddress(r)
		if r.ContentLength >= 0 {
			size = r.ContentLength
		}
		if why := a.bodies.Take(from, size); why != share.None {
			w.Header().Set("Connection", "close") // the rest is not read
			return &problem{
				status:  http.StatusServiceUnavailable,
				Code:    server.ReasonOverloaded,
				retry:   time.Second,
				Field:   "body",
				Message: "body: " + tooManyBodies,
				why:     server.TooManyAtOnce,
			}
		}
		defer a.bodies.Give(from, size)
		if _, err := b.ReadFrom(io.LimitReader(r.Body, maxBody+1-smallBody)); err != nil {
			return incomplete(err)
		}
	}
	if b.Len() > maxBody {
		return discard(w, r, maxBody+1)
	}
	return readObject(b.Bytes(), fields)
}

func incomplete(err error) *problem {
	return becauseOf(server.SlowOrCutShort, "body", "could not be read: "+err.Error())
}

// remoteAddress returns the address that a request came from, for its share.
func remoteAddress(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return share.Of(a.Addr())
}

// discard reads the rest of a body that is too large, and returns the error.
func discard(w http.ResponseWriter, r *http.Request, done int) error {
	rest := int64(maxDiscard - done)
	if n, err := io.CopyN(io.Discard, r.Body, rest); err == nil && n == rest {
		w.Header().Set("Connection", "close") // the body may be longer still
	}
	return &problem{
		status:  http.StatusRequestEntityTooLarge,
		Code:    "body_too_large",
		Field:   "body",
		Message: "body: must be at most " + strconv.Itoa(maxBody) + " bytes",
		why:     server.TooLarge,
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
