// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"testing"
	"time"
)

// The idle connections to the upstream end before those of common servers do.
func TestIdleConnectionsEndFirst(t *testing.T) {
	const uvicorn = 5 * time.Second // --timeout-keep-alive; that of Node is the same
	if got := newUpstream(time.Minute, nil).transport.IdleConnTimeout; got <= 0 || got >= uvicorn {
		t.Errorf("idle connections are kept for %v, want less than %v", got, uvicorn)
	}
}
