// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
)

// TestComposeProxy runs the profile "proxy" of docker-compose.yml with the
// commands that its comment shows: every node knows what the model generated.
func TestComposeProxy(t *testing.T) {
	c := startCompose(t, "COMPOSE_PROFILES=proxy")
	c.ids["proxy"] = c.must(t, "ps", "-q", "proxy")
	waittest.Until(t, "the proxy is healthy", func() bool { return c.inspect(t, "proxy", "{{.State.Health.Status}}") == "healthy" })
	if user := c.inspect(t, "proxy", "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}"); user != "65532:65532 true" {
		t.Errorf("the proxy runs as %s, want 65532:65532, read-only", user)
	}

	const call = `curl -si --max-time 20 localhost:6473/v1/chat/completions -H 'X-Tenant: %s' -d '{"model":"mock-small","messages":[{"role":"user","content":"hello"}]%s}'`
	answer := must(t, "sh", "-c", fmt.Sprintf(call, "acme/alice", ""))
	head, body, _ := strings.Cut(answer, "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 200") || !strings.Contains(strings.ToLower(head), "x-ratelimit-remaining-tokens: ") {
		t.Fatalf("a call through the proxy = %s, want 200 and what is left", answer)
	}
	var generated struct {
		Usage struct {
			Total int64 `json:"total_tokens"`
		} `json:"usage"`
	}
	if err := json.Unmarshal([]byte(body), &generated); err != nil || generated.Usage.Total <= 0 {
		t.Fatalf("the answer has no usage (%v): %s", err, body)
	}
	used := map[string]int64{"requests": 1, "spend": -1, "tokens": generated.Usage.Total, "concurrent": 0}
	for i, m := range c.members {
		var state struct {
			Limits []struct {
				Dimension        string
				Limit, Remaining int64
			} `json:"limits"`
		}
		text := must(t, "curl", "-s", "--max-time", "10", fmt.Sprintf("localhost:%d/v1/limits?key=acme/alice", 6470+10*i))
		if err := json.Unmarshal([]byte(text), &state); err != nil || len(state.Limits) != len(used) {
			t.Fatalf("the limits at %s = %s (%v), want those of the free tier", m.name, text, err)
		}
		for _, l := range state.Limits {
			// A bucket refills by 167 tokens a second while curl runs: at most what
			// was generated is gone.
			if got, want := l.Limit-l.Remaining, used[l.Dimension]; want >= 0 && got > want || l.Dimension == "spend" && got <= 0 {
				t.Errorf("at %s %d of %s are used, want at most %d and some money", m.name, got, l.Dimension, want)
			}
		}
	}

	if denied := must(t, "sh", "-c", fmt.Sprintf(call, "acme/bob", `,"max_tokens":20000`)); !strings.HasPrefix(denied, "HTTP/1.1 429") || !strings.Contains(denied, `"exceeds_capacity"`) {
		t.Errorf("a call for more than the tier ever grants = %s, want 429 and exceeds_capacity", denied)
	}
	if nobody := must(t, "sh", "-c", strings.ReplaceAll(fmt.Sprintf(call, "", ""), "-H 'X-Tenant: '", "")); !strings.HasPrefix(nobody, "HTTP/1.1 401") {
		t.Errorf("a call by nobody = %s, want 401", nobody)
	}
}
