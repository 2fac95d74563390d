// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// maxDiscard bounds how much of a too large body is read and discarded, so that
// the caller sees the 413 instead of a broken connection.
const maxDiscard = 16 << 20

// readBody reads the body of a metered request.
func (m *Middleware) readBody(r *http.Request) ([]byte, *rejection) {
	if isEncoded(r.Header) {
		return nil, &rejection{
			status: http.StatusUnsupportedMediaType, code: "unsupported_content_encoding",
			message: fmt.Sprintf("Content-Encoding %s is not supported, because the cost of the call is read from its body. Send the body without encoding.", text.Quote(r.Header.Get("Content-Encoding"))),
		}
	}
	tooLarge := &rejection{
		status: http.StatusRequestEntityTooLarge, code: "request_too_large",
		message: fmt.Sprintf("The body is larger than %d bytes.", m.options.MaxBodyBytes),
	}
	if r.ContentLength > m.options.MaxBodyBytes {
		if r.Header.Get("Expect") == "" { // with Expect, the caller has not sent the body yet
			_, _ = io.CopyN(io.Discard, r.Body, maxDiscard)
		}
		return nil, tooLarge
	}
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), 64<<10)) + bytes.MinRead)
	n, err := b.ReadFrom(io.LimitReader(r.Body, m.options.MaxBodyBytes+1))
	if _, bounded := errors.AsType[*http.MaxBytesError](err); bounded {
		return nil, tooLarge
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, &rejection{status: http.StatusRequestTimeout, code: "request_timeout", message: "The body was not received in time."}
	}
	if err != nil {
		return nil, &rejection{status: http.StatusBadRequest, code: "unreadable_body", message: "The body could not be read to its end."}
	}
	if n > m.options.MaxBodyBytes {
		_, _ = io.CopyN(io.Discard, r.Body, maxDiscard)
		return nil, tooLarge
	}
	return b.Bytes(), nil
}

// isEncoded reports whether a body has a content encoding other than identity.
func isEncoded(h http.Header) bool {
	for _, value := range h.Values("Content-Encoding") {
		for coding := range strings.SplitSeq(value, ",") {
			if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
				return true
			}
		}
	}
	return false
}

// withBody returns a copy of r with a new body. original is the body that was
// read from r.
func withBody(r *http.Request, original, body []byte) *http.Request {
	r2 := r.Clone(r.Context())
	r2.Body = io.NopCloser(bytes.NewReader(body))
	r2.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r2.ContentLength, r2.TransferEncoding, r2.Trailer = int64(len(body)), nil, nil
	r2.Header.Set("Content-Length", strconv.Itoa(len(body)))
	r2.Header.Del("Expect") // the body has been read
	if !bytes.Equal(original, body) {
		for _, digest := range [...]string{"Content-Digest", "Content-MD5", "Digest", "Repr-Digest"} {
			r2.Header.Del(digest)
		}
	}
	return r2
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
