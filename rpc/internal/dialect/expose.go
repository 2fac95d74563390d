// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"net/http"
	"slices"
)

// Exposed returns the names of the headers in h that scripts of a web page need, sorted:
// those about limits, when to try again, and the ids of the request.
func Exposed(h http.Header) []string {
	var names []string
	for name := range h {
		switch name {
		case "Retry-After", "Retry-After-Ms", "X-Should-Retry", "X-Request-Id", "Request-Id":
		default:
			if !isRateLimit(name) {
				continue
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
