// SPDX-License-Identifier: Apache-2.0

package node

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestHotKeys asks three nodes for a key that is hot, and finds it and who asked at each of
// them: in the API, in the status of its owner, on the page and in metrics.
func TestHotKeys(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 3, nil)
	agree(t, nodes...)
	key := nodes[1].keyOf("n2")
	for range 40 {
		for _, n := range nodes {
			n.checkKey(key)
		}
		nodes[2].checkKey(key)
	}
	for _, n := range nodes {
		_, text := n.get("/v1/hotkeys")
		var hot httpapi.HotKeys
		if err := json.Unmarshal([]byte(text), &hot); err != nil {
			t.Fatal(err)
		}
		if len(hot.Keys) != 1 || len(hot.Members) != 3 {
			t.Fatalf("hot keys at %s = %s, want %s by three members", n.Name(), text, key)
		}
		k := hot.Keys[0]
		if k.Key != key || k.Owner != "n2" || k.Rate <= 0 || k.Tier != "free" || k.Limit == nil || k.Limit.Name != "requests" {
			t.Errorf("hot key at %s = %s, want %s of n2 with its limit on requests", n.Name(), text, key)
		}
		askers := map[string]float64{}
		for _, a := range k.Askers {
			askers[a.Member] = a.Rate
		}
		if len(askers) != 3 || askers["n3"] <= askers["n1"] || askers["n2"] <= 0 {
			t.Errorf("askers at %s = %v, want n3 twice as often as n1 and n2", n.Name(), askers)
		}
		if page := n.pageText(); !strings.Contains(page, "<bdi>"+key+"</bdi>") {
			t.Errorf("the page of %s has no %s", n.Name(), key)
		}
		own := n.Status().HotKeys.Keys
		if n.Name() == "n2" {
			if len(own) != 1 || own[0].Key != key {
				t.Errorf("hot keys in the status of n2 = %v, want %s", own, key)
			}
		} else if len(own) != 0 {
			t.Errorf("hot keys in the status of %s = %v, want none", n.Name(), own)
		}
		_, metrics := n.get("/metrics")
		rate := regexp.MustCompile(`(?m)^bucketring_hottest_key_rate (\S+)$`).FindStringSubmatch(metrics)
		if rate == nil || (rate[1] == "0") == (n.Name() == "n2") {
			t.Errorf("bucketring_hottest_key_rate of %s is %v, want more than 0 at n2 only", n.Name(), rate)
		}
		if !strings.Contains(metrics, "\nbucketring_hot_keys 0\n") || strings.Contains(metrics, key) {
			t.Errorf("metrics of %s have no bucketring_hot_keys 0, or name the key", n.Name())
		}
	}
}

// pageText returns the status page.
func (r *running) pageText() string {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+r.HTTPAddr()+"/status", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Accept", "text/html")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		r.t.Fatalf("GET /status = %d, %v", answer.StatusCode, err)
	}
	return string(page)
}

// TestWaitingIsShown: what waits is in the status of its owner, and in the API and on the page of
// each member.
func TestWaitingIsShown(t *testing.T) {
	t.Parallel()
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	const text = `{ tiers: { t: { limits: [ { name: slots, dimension: concurrent, limit: 1, queue: { max_wait: 1m } } ] } }, default_tier: t }`
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	nodes := startCluster(t, 2, func(_ int, c *config.Config) { c.Policy = policy })
	agree(t, nodes...)
	owner, other := nodes[1], nodes[0]
	key := other.keyOf(owner.Name())
	api := pb.NewRateLimiterClient(other.dial())
	if d, err := api.Reserve(t.Context(), &pb.ReserveRequest{Key: key, RequestId: "a"}); err != nil || d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED {
		t.Fatal(d, err)
	}
	waits := make(chan *pb.Decision, 1)
	go func() {
		d, _ := api.Reserve(t.Context(), &pb.ReserveRequest{Key: key, RequestId: "b", Priority: pb.Priority_PRIORITY_BATCH})
		waits <- d
	}()
	waittest.Until(t, "a call that waits", func() bool { return owner.Status().Waiting.Batch == 1 })
	if w := owner.Status().Waiting; len(w.Limits) != 1 || w.Limits[0].Scope != key || w.Limits[0].Owner != owner.Name() {
		t.Errorf("status of the owner: %+v, want a limit of %s", w, key)
	}
	if w := other.Status().Waiting; w.Total() != 0 || len(w.Limits) != 0 {
		t.Errorf("status of the other member: %+v, want nothing", w)
	}
	for _, n := range nodes {
		if _, text := n.get("/v1/hotkeys"); !strings.Contains(text, `"waiting":{"interactive":0,"standard":0,"batch":1,"limits":[{"scope":"`+key+`","name":"slots",`) {
			t.Errorf("hot keys at %s = %s, want what waits for slots of %s", n.Name(), text, key)
		}
		if page := n.pageText(); !strings.Contains(page, "<bdi>slots</bdi> of <bdi>"+key+"</bdi>") {
			t.Errorf("the page of %s has not what waits for slots of %s", n.Name(), key)
		}
	}
	if _, err := api.Settle(t.Context(), &pb.SettleRequest{Key: key, RequestId: "a"}); err != nil {
		t.Fatal(err)
	}
	if d := <-waits; d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED || d.GetPlace() != 1 {
		t.Errorf("the call that waited: %v", d)
	}
	if w := owner.Status().Waiting; w.Total() != 0 {
		t.Errorf("at the end: %+v, want nothing", w)
	}
}
