// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/pgtest"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter/policy/source/postgres"
)

const databaseRows = `
INSERT INTO bucketring_tiers (name) VALUES ('free');
INSERT INTO bucketring_limits (tier, name, dimension, amount, period) VALUES ('free', 'requests', 'requests', 1000, 'hour');
INSERT INTO bucketring_settings VALUES ('default_tier', 'free');`

// awaitLimit waits until all nodes have a policy that admits that many requests, and
// returns how long it took.
func awaitLimit(t *testing.T, requests int, nodes ...*running) time.Duration {
	t.Helper()
	began := time.Now()
	for _, n := range nodes {
		waittest.Until(t, fmt.Sprintf("%d requests at %s", requests, n.Name()), func() bool {
			_, text := n.get("/v1/limits?key=acme/alice&tier=free")
			return strings.Contains(text, fmt.Sprintf(`"limit":%d,`, requests)) && !n.policies.Status().LastGood
		})
	}
	return time.Since(began)
}

// TestPolicyFromDatabase: three nodes follow a change of one row; while the database is
// down or has a bad row they keep their policy and say so, and a node starts with the last
// good one.
func TestPolicyFromDatabase(t *testing.T) {
	if testing.Short() {
		t.Skip("several members with all partitions in one process take too long under the race detector")
	}
	server := pgtest.Start(t)
	d := server.Database(t, postgres.Schema(), databaseRows)
	solo := func(c *config.Config) { c.Name, c.Cluster, c.Policy = "solo", "another", d.URL }
	data := t.TempDir()
	withData := func(c *config.Config) { solo(c); c.Data = data }
	first := start(t, withData)
	nodes := startCluster(t, 3, func(_ int, c *config.Config) { c.Policy = d.URL })
	awaitLimit(t, 1000, nodes...)
	for i := 1; i <= 5; i++ {
		d.Exec(t, fmt.Sprintf("UPDATE bucketring_limits SET amount = %d", 1000+i))
		t.Logf("a change is in force at three nodes after %v", awaitLimit(t, 1000+i, nodes...).Round(time.Millisecond))
	}
	awaitLimit(t, 1005, first)
	if err := first.ended(); err != nil {
		t.Fatal(err)
	}

	server.Kill()
	for _, n := range nodes {
		waittest.Until(t, "stale policy at "+n.Name(), func() bool { return !n.Status().Policy.StaleSince.IsZero() })
		if a := n.checkKey("acme/alice"); a.Outcome != "allowed" {
			t.Errorf("%s without its database: %+v", n.Name(), a)
		}
	}
	if _, text := nodes[0].get("/metrics"); !strings.Contains(text, "\nbucketring_policy_stale_seconds ") || strings.Contains(text, "\nbucketring_policy_stale_seconds 0\n") {
		t.Error("the metrics do not say that the policy is stale")
	}
	_, err := New(Options{Config: testConfig(solo)})
	if err == nil || !strings.Contains(err.Error(), "with --data, a node keeps the last good policy") || strings.Contains(err.Error(), pgtest.Password) {
		t.Errorf("New without the database and without data = %v", err)
	}
	again := start(t, withData)
	if st := again.Status().Policy; !st.LastGood || st.LastError == "" || st.Digest != nodes[0].Status().Policy.Digest {
		t.Errorf("a node that started without its database has %+v", st)
	}
	nodes = append(nodes, again)

	server.Run(t)
	d.Exec(t, "UPDATE bucketring_limits SET amount = 2000")
	t.Logf("a change after a restart of the database is in force at four nodes after %v", awaitLimit(t, 2000, nodes...).Round(time.Millisecond))

	d.Exec(t, "UPDATE bucketring_limits SET period = 'fortnight'")
	for _, n := range nodes {
		waittest.Until(t, "bad row at "+n.Name(), func() bool {
			return strings.Contains(n.Status().Policy.LastError, "bucketring_limits, row (tier=free, name=requests), column period")
		})
		waittest.Until(t, "the row in the log of "+n.Name(), func() bool { return strings.Contains(n.log.String(), "column period") })
	}
	awaitLimit(t, 2000, nodes...)
	d.Exec(t, "UPDATE bucketring_limits SET period = 'hour', amount = 3000")
	awaitLimit(t, 3000, nodes...)
	for _, n := range nodes {
		if st := n.Status().Policy; st.LastError != "" || !st.StaleSince.IsZero() {
			t.Errorf("%s is still stale: %+v", n.Name(), st)
		}
		if _, text := n.get("/status"); strings.Contains(text+n.log.String(), pgtest.Password) {
			t.Errorf("%s shows the password", n.Name())
		}
	}
}

// TestPolicyFromURL: a node follows a policy at a URL.
func TestPolicyFromURL(t *testing.T) {
	var requests atomic.Int64
	requests.Store(10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		fmt.Fprintf(w, "tiers: { free: { requests: %d/hour } }\n", requests.Load())
	}))
	t.Cleanup(server.Close)
	n := start(t, func(c *config.Config) {
		c.Policy, c.PolicySource.Interval = server.URL+"/policy.yaml", time.Millisecond
	})
	awaitLimit(t, 10, n)
	requests.Store(20)
	awaitLimit(t, 20, n)
	if st := n.Status().Policy; st.Source != "http" || st.Path != server.URL+"/policy.yaml" {
		t.Errorf("Status().Policy = %+v", st)
	}
}
