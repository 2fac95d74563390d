// SPDX-License-Identifier: Apache-2.0

package node

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/rpc/httpapi"
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
