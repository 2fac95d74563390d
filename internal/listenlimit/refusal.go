// SPDX-License-Identifier: Apache-2.0

package listenlimit

import "fmt"

const tooMany = "too many connections to this node, or from this address"

// RESPRefusal is an error of the Redis protocol, in the words by which its clients know it.
func RESPRefusal() []byte { return []byte("-ERR max number of clients reached: " + tooMany + "\r\n") }

// HTTPRefusal is an answer of HTTP/1.1 that says why.
func HTTPRefusal() []byte {
	body := `{"error":"too_many_connections","message":"` + tooMany + `"}` + "\n"
	return fmt.Appendf(nil, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}
