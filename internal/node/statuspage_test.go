// SPDX-License-Identifier: Apache-2.0

package node

import (
	"strings"
	"testing"

	"github.com/bucketring/bucketring/ring"
)

// TestStatusPage gets the page of a node of a cluster like a browser.
func TestStatusPage(t *testing.T) {
	nodes := startCluster(t, 2, nil)
	agree(t, nodes...)
	asked := nodes[0]
	page := asked.pageText()
	s := asked.Status()
	for _, want := range []string{
		"<h1>" + s.Name + "</h1>", ">ready</strong>", s.Cluster.RingDigest, s.Policy.Digest,
		`href="http://` + nodes[1].HTTPAddr() + `/status"`, nodes[1].Status().Cluster.Boot.String(),
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q:\n%s", want, page)
		}
	}
	if !strings.Contains(page, "No calls in the last seconds.") {
		t.Errorf("the page of an idle cluster has hot keys:\n%s", page)
	}
	owned := 0
	for _, run := range asked.statusPage().Owners {
		if run.Owner != nodes[0].Name() && run.Owner != nodes[1].Name() {
			t.Errorf("%d partitions of %q, want only the members", run.Partitions, run.Owner)
		}
		owned += run.Partitions
	}
	if owned != ring.Partitions {
		t.Errorf("owners of %d partitions, want %d", owned, ring.Partitions)
	}
}
