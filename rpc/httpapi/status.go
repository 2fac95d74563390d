// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/bucketring/bucketring/rpc/httpapi/statuspage"
)

func (a *api) livez(w http.ResponseWriter, _ *http.Request) error {
	writeText(w, http.StatusOK, "ok")
	return nil
}

// readyz says whether to send calls here; with ?verbose, also why not.
func (a *api) readyz(w http.ResponseWriter, r *http.Request) error {
	err := a.ready()
	switch {
	case err == nil:
		writeText(w, http.StatusOK, "ok")
	case r.URL.Query().Has("verbose"):
		writeText(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
	default:
		writeText(w, http.StatusServiceUnavailable, "not ready")
	}
	return nil
}

func writeText(w http.ResponseWriter, status int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, line+"\n")
}

// showStatus answers in JSON, or with a page for people whose browser asks for one.
func (a *api) showStatus(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	if a.page != nil {
		h.Set("Vary", "Accept")
	}
	if a.page == nil || !prefersHTML(r.Header.Values("Accept")) {
		a.write(w, http.StatusOK, a.status())
		return nil
	}
	b := a.buffer()
	defer a.release(b)
	if err := statuspage.Write(b, a.page()); err != nil {
		return fmt.Errorf("show status: %w", err)
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", statuspage.ContentSecurityPolicy())
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(b.Bytes()) // an error means that the caller has gone
	return nil
}

// prefersHTML reports whether Accept headers like HTML better than JSON. Who
// likes both as much, or says nothing, gets JSON. Ranges that are not valid do
// not count.
func prefersHTML(accept []string) bool {
	var html, json liking
	for _, header := range accept {
		for text := range strings.SplitSeq(header, ",") {
			kind, parameters, err := mime.ParseMediaType(text)
			if err != nil {
				continue
			}
			weight := 1000
			if q, given := parameters["q"]; given {
				if weight = perMille(q); weight < 0 {
					continue
				}
			}
			html.hear(kind, "text/html", weight)
			json.hear(kind, "application/json", weight)
		}
	}
	return html.weight > json.weight
}

// liking is how much a media type is wanted, as the most specific range says.
type liking struct{ precision, weight int }

// hear takes a range into account. Of two that are as specific, the first counts.
func (l *liking) hear(kind, of string, weight int) {
	group, _, _ := strings.Cut(of, "/")
	precision := 0
	switch kind {
	case of:
		precision = 3
	case group + "/*":
		precision = 2
	case "*/*":
		precision = 1
	}
	if precision > l.precision {
		*l = liking{precision, weight}
	}
}

// perMille reads a weight of 0 to 1 with up to three decimals; it is negative if
// there is none.
func perMille(q string) int {
	whole, decimals, _ := strings.Cut(q, ".")
	if (whole != "0" && whole != "1") || len(decimals) > 3 {
		return -1
	}
	n, err := strconv.ParseUint(whole+(decimals + "000")[:3], 10, 16)
	if err != nil || n > 1000 {
		return -1
	}
	return int(n)
}
