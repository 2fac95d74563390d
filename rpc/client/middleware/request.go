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

	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// thrownAway bounds what is read of a body that is too large, so that its sender
// gets to see why it was refused.
const thrownAway = 16 << 20

// body reads the body of a request that is to be metered.
func (m *Middleware) body(r *http.Request) ([]byte, *refusal) {
	if !plain(r.Header) {
		return nil, &refusal{
			status: http.StatusUnsupportedMediaType, code: "unsupported_content_encoding",
			message: fmt.Sprintf("Content-Encoding %s is not supported: the cost of the call is read from its body. Send it as it is.", quote(r.Header.Get("Content-Encoding"))),
		}
	}
	tooLarge := &refusal{
		status: http.StatusRequestEntityTooLarge, code: "request_too_large",
		message: fmt.Sprintf("The body is larger than the %d bytes that are allowed.", m.options.MaxBody),
	}
	if r.ContentLength > m.options.MaxBody {
		if r.Header.Get("Expect") == "" { // who asks first has sent nothing yet
			_, _ = io.CopyN(io.Discard, r.Body, thrownAway)
		}
		return nil, tooLarge
	}
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), 64<<10)) + bytes.MinRead)
	n, err := b.ReadFrom(io.LimitReader(r.Body, m.options.MaxBody+1))
	if _, bounded := errors.AsType[*http.MaxBytesError](err); bounded {
		return nil, tooLarge
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, &refusal{status: http.StatusRequestTimeout, code: "request_timeout", message: "The body did not come in time."}
	}
	if err != nil {
		return nil, &refusal{status: http.StatusBadRequest, code: "unreadable_body", message: "The body could not be read to its end."}
	}
	if n > m.options.MaxBody {
		_, _ = io.CopyN(io.Discard, r.Body, thrownAway)
		return nil, tooLarge
	}
	return b.Bytes(), nil
}

// plain reports whether a body is as it stands, not encoded.
func plain(h http.Header) bool {
	for _, value := range h.Values("Content-Encoding") {
		for coding := range strings.SplitSeq(value, ",") {
			if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
				return false
			}
		}
	}
	return true
}

// withBody returns a request that has body instead of the one that was read.
func withBody(r *http.Request, read, body []byte) *http.Request {
	r2 := r.Clone(r.Context())
	r2.Body = io.NopCloser(bytes.NewReader(body))
	r2.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r2.ContentLength, r2.TransferEncoding, r2.Trailer = int64(len(body)), nil, nil
	r2.Header.Set("Content-Length", strconv.Itoa(len(body)))
	r2.Header.Del("Expect") // it has been met
	if !bytes.Equal(read, body) {
		for _, digest := range [...]string{"Content-Digest", "Content-MD5", "Digest", "Repr-Digest"} {
			r2.Header.Del(digest)
		}
	}
	return r2
}

// floor returns the least output worth running, as in [client.Estimate].
func (m *Middleware) floor(r *http.Request, q *llm.Request) (int64, *refusal) {
	floor, forbid := m.options.MinOutput, q.NoTruncation && !m.options.AllowCut
	switch said := r.Header.Values(headerMinOutput); {
	case len(said) == 0:
	case len(said) == 1 && strings.EqualFold(said[0], "forbid"):
		forbid = true
	default:
		n, err := strconv.ParseInt(said[0], 10, 64)
		if err != nil || n < 1 || n > maxAmount || len(said) > 1 {
			return 0, &refusal{
				status: http.StatusBadRequest, code: "invalid_header", param: headerMinOutput,
				message: fmt.Sprintf("%s: must be one whole number of at least 1, or forbid, got %s", headerMinOutput, quote(strings.Join(said, ", "))),
			}
		}
		floor, forbid = n, false
	}
	if q.MaxOutput == 0 {
		return 0, nil // no output to cut
	}
	if floor == 0 && q.MinOutput > 0 {
		if usual := max(256, q.MaxOutput/8); q.MinOutput > usual { // else nodes know better
			floor = q.MinOutput
		}
	}
	if floor > 0 {
		floor = max(floor, q.MinOutput)
	}
	if forbid {
		floor = maxAmount
	}
	if q.MaxOutput > 0 {
		floor = min(floor, q.MaxOutput)
	}
	return floor, nil
}

// quote shows text of a caller in a message.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "..."
	}
	return strconv.Quote(s)
}
