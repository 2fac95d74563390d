// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"

	"github.com/bucketring/bucketring/internal/text"
)

// pprofPath begins the paths of Go's profiles.
const pprofPath = "/debug/pprof/"

// How long a profile may take: less than the timeout of answers. A trace of a busy node has
// some 10 MB a second.
const (
	maxProfileSeconds = 30
	maxTraceSeconds   = 5
)

// profile serves Go's profiles, for go tool pprof.
func (a *api) profile(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Path, pprofPath)
	longest := maxProfileSeconds
	if name == "trace" {
		longest = maxTraceSeconds
	}
	if given := r.URL.Query().Get("seconds"); given != "" {
		if seconds, err := strconv.Atoi(given); err != nil || seconds < 1 || seconds > longest {
			return invalid("seconds", fmt.Sprintf("must be a whole number from 1 to %d, got %s", longest, text.Quote(given)))
		}
	}
	switch name {
	case "cmdline":
		pprof.Cmdline(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r) // the list, and all profiles by name
	}
	return nil
}
