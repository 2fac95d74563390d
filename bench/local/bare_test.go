// SPDX-License-Identifier: Apache-2.0

package local

import (
	"net"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
)

// Bare servers serve beside the nodes, and end with the cluster.
func TestBareServers(t *testing.T) {
	t.Parallel()
	r := startCluster(t, 1, func(o *Options) { o.BareServers = 2 })
	for _, b := range r.bare {
		r.pids[b.process.Pid] = true
	}
	addrs := r.BareAddrs()
	if len(addrs) != 2 || len(r.pids) != 3 || len(r.Nodes()) != 1 {
		t.Fatalf("bare servers at %v, %d processes, want 2 and 3", addrs, len(r.pids))
	}
	for _, address := range addrs {
		waittest.Until(t, address+" to accept connections", func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		})
	}
	if err := r.Stop(); err != nil {
		t.Errorf("Stop = %v, want nil", err)
	}
	r.allGone()
}
