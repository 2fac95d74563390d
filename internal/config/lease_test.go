// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
	"time"
)

func TestLeaseOfAProxy(t *testing.T) {
	for lease, fine := range map[time.Duration]bool{
		0: false, time.Second: true, 1500 * time.Millisecond: false, 30 * time.Second: true, time.Hour: true, 2 * time.Hour: false, -time.Second: false,
	} {
		c := DefaultStandalone()
		c.Proxy.Upstream, c.Proxy.Identity, c.Proxy.Lease = "http://127.0.0.1:8000", "header:X-User", lease
		err := c.Validate()
		if fine && err != nil || !fine && (err == nil || !strings.Contains(err.Error(), "lease: must be whole seconds from 1s to 1h, got "+lease.String())) {
			t.Errorf("a lease of %s: %v", lease, err)
		}
	}
}
