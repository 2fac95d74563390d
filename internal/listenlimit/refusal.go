// SPDX-License-Identifier: Apache-2.0

package listenlimit

import "fmt"

const tooMany = "too many connections to this node, or from this address"

// HTTPRefusal is an answer of HTTP/1.1 that says why.
func HTTPRefusal() []byte {
	body := `{"error":"too_many_connections","message":"` + tooMany + `"}` + "\n"
	return fmt.Appendf(nil, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}
