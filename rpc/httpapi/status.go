// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/rpc/httpapi/statuspage"
)

func (a *api) livez(w http.ResponseWriter, _ *http.Request) error {
	writeText(w, http.StatusOK, "ok")
	return nil
}

// readyz answers whether this node should get calls; with ?verbose, also why not.
func (a *api) readyz(w http.ResponseWriter, r *http.Request) error {
	writeProbe(w, r, "not ready", a.ready())
	return nil
}

// safez answers whether the cluster may lose any one node now; with ?verbose, also why not.
func (a *api) safez(w http.ResponseWriter, r *http.Request) error {
	writeProbe(w, r, "not safe", a.safe())
	return nil
}

// writeProbe answers a probe that failed with an error, or nil.
func writeProbe(w http.ResponseWriter, r *http.Request, failure string, err error) {
	switch {
	case err == nil:
		writeText(w, http.StatusOK, "ok")
	case r.URL.Query().Has("verbose"):
		writeText(w, http.StatusServiceUnavailable, failure+": "+err.Error())
	default:
		writeText(w, http.StatusServiceUnavailable, failure)
	}
}

func writeText(w http.ResponseWriter, status int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, line+"\n")
}

// showPartitions answers who holds which partitions, of all or of those of a member.
func (a *api) showPartitions(w http.ResponseWriter, r *http.Request) error {
	var member string
	if err := readQuery(r.URL.RawQuery, []field{{"member", &member}}); err != nil {
		return err
	}
	answer, err := a.partitions(r.Context(), member)
	if unknown, ok := errors.AsType[*UnknownMemberError](err); ok {
		return unknown.problem()
	}
	if err != nil {
		return &problem{status: http.StatusServiceUnavailable, Code: "unavailable", Message: err.Error()}
	}
	a.write(w, http.StatusOK, answer)
	return nil
}

// statusPath is the path of the status, as a page or as JSON.
const statusPath = "/status"

// leadToPage redirects a browser that asks for the root to the status page. It returns false
// for other callers, and if there is no page. Nobody needs credentials to be told the path.
func (a *api) leadToPage(w http.ResponseWriter, r *http.Request) bool {
	if a.page == nil {
		return false
	}
	h := w.Header()
	h.Set("Vary", "Accept")
	if r.Method != http.MethodGet && r.Method != http.MethodHead || !prefersHTML(r.Header.Values("Accept")) {
		return false
	}
	h.Set("Cache-Control", "no-store")
	http.Redirect(w, r, statusPath, http.StatusFound)
	return true
}

// otherPath ends the message about a path that does not exist: it names one that does.
func (a *api) otherPath(path string) string {
	if path == "/" && a.status != nil {
		return " (GET " + statusPath + " shows the node, POST /v1/check decides a call)"
	}
	return nearest.DidYouMean(path, a.paths)
}

// showStatus answers with JSON, or with a page if the caller prefers HTML.
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
	_, _ = w.Write(b.Bytes()) // an error means that the caller is gone
	return nil
}

// prefersHTML reports whether Accept headers give HTML a greater weight than JSON.
// Invalid media ranges are ignored.
func prefersHTML(accept []string) bool {
	var html, json preference
	for _, header := range accept {
		for text := range strings.SplitSeq(header, ",") {
			kind, parameters, err := mime.ParseMediaType(text)
			if err != nil {
				continue
			}
			weight := 1000
			if q, given := parameters["q"]; given {
				if weight = parseQuality(q); weight < 0 {
					continue
				}
			}
			html.consider(kind, "text/html", weight)
			json.consider(kind, "application/json", weight)
		}
	}
	return html.weight > json.weight
}

// preference is the weight that the most specific range gives a media type.
type preference struct{ precision, weight int }

// consider takes a media range into account. Of two equally specific ranges, the
// first counts.
func (p *preference) consider(mediaRange, mediaType string, weight int) {
	group, _, _ := strings.Cut(mediaType, "/")
	precision := 0
	switch mediaRange {
	case mediaType:
		precision = 3
	case group + "/*":
		precision = 2
	case "*/*":
		precision = 1
	}
	if precision > p.precision {
		*p = preference{precision, weight}
	}
}

// parseQuality parses a weight from 0 to 1 with up to three decimals, and returns it
// in thousandths. It is negative if q is invalid.
func parseQuality(q string) int {
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
