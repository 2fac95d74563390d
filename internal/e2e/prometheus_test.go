// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

const (
	rulesFile     = root + "/deploy/prometheus/rules.yaml"
	dashboardFile = root + "/deploy/grafana/bucketring.json"
)

// requireProgram fails if a program of a Debian package is missing.
func requireProgram(t *testing.T, name, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%v: apt-get install %s", err, debianPackage)
	}
}

// TestRules runs the unit tests of rules and alerts.
func TestRules(t *testing.T) {
	requireProgram(t, "promtool", "prometheus")
	must(t, "promtool", "check", "config", root+"/deploy/prometheus/prometheus.yaml") // and its rules
	must(t, "promtool", "test", "rules", root+"/deploy/prometheus/rules_test.yaml")
}

// rightlyEmpty are queries of the dashboard that return nothing while all is well, and why.
var rightlyEmpty = map[string]string{
	"Connections B": "only connections that are refused are shown",
}

// TestDashboardAndRules has a real Prometheus scrape a cluster under load, with a proxy. It
// checks that every metric and label that the dashboard and the rules name exists, that
// every query of the dashboard returns something, and that the loss of a node is an alert.
func TestDashboardAndRules(t *testing.T) {
	requireProgram(t, "prometheus", "prometheus")
	w := startWatched(t)
	w.load(t)
	p := startPrometheus(t, map[string][]string{"bucketring": w.nodes, "bucketring-proxy": {w.admin}})

	queries := dashboardQueries(t)
	waittest.Until(t, "Prometheus to have scraped and evaluated", func() bool {
		return len(p.query(t, "min_over_time(up[2s]) == 1")) == 4 && len(p.query(t, "count_over_time(bucketring:decisions:rate5m[1m]) > 2")) > 0
	})
	missing := map[string]string{} // the query, by title
	deadline := time.Now().Add(2 * waittest.Limit)
	for {
		clear(missing)
		for title, query := range queries {
			if rightlyEmpty[title] == "" && len(p.query(t, query)) == 0 {
				missing[title] = query
			}
		}
		if len(missing) == 0 || time.Now().After(deadline) {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	for title, query := range missing {
		t.Errorf("panel %s has no data: %s", title, query)
	}
	for title, why := range rightlyEmpty {
		if query, ok := queries[title]; !ok || len(p.query(t, query)) > 0 {
			t.Errorf("panel %s is not empty (%s): take it off the list", title, why)
		}
	}
	for title, query := range queries {
		p.checkNames(t, "panel "+title, query)
	}
	for name, rule := range p.rules(t) {
		if rule.Health != "ok" || rule.LastError != "" {
			t.Errorf("rule %s is %s: %s", name, rule.Health, rule.LastError)
		}
		p.checkNames(t, "rule "+name, rule.Query)
		if rule.State == "firing" {
			t.Errorf("alert %s fires while all is well", name)
		}
	}

	w.processes[2].kill(t)
	waittest.Until(t, "the loss of a node to become an alert", func() bool {
		return len(p.query(t, `ALERTS{alertname="BucketringMemberCrashed", job="bucketring"}`)) > 0
	})
}

// watched is a cluster with all that has metrics.
type watched struct {
	processes        []*process
	nodes            []string // HTTP addresses
	envoy            string
	proxy, admin     string
	policies, states string
}

func startWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{envoy: freeport.Test(t), proxy: freeport.Test(t), admin: freeport.Test(t), policies: policyDir(t), states: t.TempDir()}
	const shadow = "tiers: { watched: { limits: [{ name: watched, dimension: requests, limit: 1, window: 1m, mode: shadow }] } }\n"
	const rules = "domain: d\ndescriptors: [{ key: k, rate_limit: { unit: day, requests_per_unit: 1 } }]\n"
	rulesPath := filepath.Join(w.states, "rules.yaml")
	for path, text := range map[string]string{filepath.Join(w.policies, "watched.yaml"): shadow, rulesPath: rules} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var grpc, gossip []string
	for range 3 {
		w.nodes = append(w.nodes, freeport.Test(t))
		grpc, gossip = append(grpc, freeport.Test(t)), append(gossip, freeport.Test(t))
	}
	for i := range w.nodes {
		name := fmt.Sprintf("node-%d", i+1)
		command := []string{
			binary(t), "serve", "--name", name, "--http", w.nodes[i], "--grpc", grpc[i], "--gossip", gossip[i], "--join", strings.Join(gossip, ","),
			"--policy", w.policies, "--data", filepath.Join(w.states, name), "--envoy-config", rulesPath,
		}
		if i == 0 {
			command = append(command, "--envoy-http", w.envoy)
		}
		w.processes = append(w.processes, startProcess(t, name, command...))
	}
	model := freeport.Test(t)
	startProcess(t, "mock-llm", binary(t), "mock-llm", "--listen", model, "--ttft", "1ms", "--speed", "0", "--output", "20")
	startProcess(t, "proxy", binary(t), "proxy", "--listen", w.proxy, "--admin", w.admin, "--upstream", "http://"+model,
		"--identity", "header:X-Tenant", "--servers", strings.Join(grpc, ","))
	for _, address := range append(slices.Clone(w.nodes), w.admin, model) {
		ready(t, address)
	}
	return w
}

// load sends calls of all kinds until the test ends.
func (w *watched) load(t *testing.T) {
	t.Helper()
	end, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(end); <-done })
	client := &http.Client{Timeout: 10 * time.Second}
	post := func(address, path, tenant, body string) {
		r, err := http.NewRequest(http.MethodPost, "http://"+address+path, strings.NewReader(body))
		if err != nil {
			panic(err) // the addresses are those of this test
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Tenant", tenant)
		resp, err := client.Do(r)
		if err != nil {
			return // a node is killed at the end
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			node := w.nodes[i%len(w.nodes)]
			post(node, "/v1/check", "", fmt.Sprintf(`{"key":"acme-%d/alice","tier":"free","input_tokens":1200}`, i%5))
			post(node, "/v1/check", "", `{"key":"watched/alice","tier":"watched"}`)
			post(node, "/v1/reserve", "", fmt.Sprintf(`{"key":"globex-%d/bob","tier":"free","input_tokens":10,"max_output_tokens":10,"request_id":"r-%[1]d"}`, i))
			post(node, "/v1/settle", "", fmt.Sprintf(`{"key":"globex-%d/bob","request_id":"r-%[1]d","output_tokens":50000}`, i))
			post(w.envoy, "/json", "", `{"domain":"d","descriptors":[{"entries":[{"key":"k","value":"v"}]}]}`)
			post(w.proxy, "/v1/chat/completions", fmt.Sprintf("tenant-%d", i%50), `{"model":"mock-small","messages":[{"role":"user","content":"hello"}]}`)
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
}

// prometheus is a running Prometheus.
type prometheus struct{ url string }

// startPrometheus scrapes targets every second, by the name of the job.
func startPrometheus(t *testing.T, jobs map[string][]string) *prometheus {
	t.Helper()
	rules, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("global: { scrape_interval: 1s, evaluation_interval: 1s }\nrule_files: [%q]\nscrape_configs:\n", rules)
	for job, targets := range jobs {
		text += fmt.Sprintf("  - { job_name: %s, static_configs: [{ targets: [%q] }] }\n", job, strings.Join(targets, `","`))
	}
	text = strings.ReplaceAll(text, `\"`, `"`)
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	listen := freeport.Test(t)
	startProcess(t, "prometheus", "prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+listen)
	p := &prometheus{url: "http://" + listen}
	waittest.Until(t, "Prometheus to be ready", func() bool {
		resp, err := http.Get(p.url + "/-/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

// get asks the API and decodes the data of the answer.
func (p *prometheus) get(t *testing.T, path string, arguments url.Values, into any) {
	t.Helper()
	resp, err := http.PostForm(p.url+path, arguments)
	if path == "/api/v1/rules" {
		resp, err = http.Get(p.url + path)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s with %v: %v %s", path, arguments, err, answer.Error)
	}
	if err := json.Unmarshal(answer.Data, into); err != nil {
		t.Fatal(err)
	}
}

// query returns the labels of the series that a query returns now.
func (p *prometheus) query(t *testing.T, query string) (series []map[string]string) {
	t.Helper()
	var data struct {
		Result []struct{ Metric map[string]string }
	}
	p.get(t, "/api/v1/query", url.Values{"query": {query}}, &data)
	for _, r := range data.Result {
		series = append(series, r.Metric)
	}
	return series
}

type rule struct{ Name, Query, Health, LastError, State string }

func (p *prometheus) rules(t *testing.T) map[string]rule {
	t.Helper()
	var data struct{ Groups []struct{ Rules []rule } }
	p.get(t, "/api/v1/rules", nil, &data)
	rules := map[string]rule{}
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			rules[r.Name] = r
		}
	}
	if len(rules) < 30 {
		t.Errorf("Prometheus has %d rules, want those of %s", len(rules), rulesFile)
	}
	return rules
}

var (
	selector = regexp.MustCompile(`\b((?:bucketring|process|go)[_:][a-z0-9_:]+)(\{[^}]*\})?`)
	grouping = regexp.MustCompile(`(?:by|on) \(([^)]*)\)`)
	variants = regexp.MustCompile(`(\w+)=~"([a-z_]+(?:\|[a-z_]+)+)"`)
)

// checkNames checks that there are series for each selector of a query, with each value of
// its alternatives, and with each label by which the query groups.
func (p *prometheus) checkNames(t *testing.T, what, query string) {
	t.Helper()
	labels := map[string]bool{"le": true, "namespace": true} // the label that Kubernetes adds
	for _, m := range selector.FindAllStringSubmatch(query, -1) {
		var series []map[string]string
		p.get(t, "/api/v1/series", url.Values{"match[]": {m[0]}}, &series)
		if len(series) == 0 {
			t.Errorf("%s: there is no %s", what, m[0])
			continue
		}
		for _, s := range series {
			for label := range s {
				labels[label] = true
			}
		}
		for _, v := range variants.FindAllStringSubmatch(m[2], -1) {
			for _, value := range strings.Split(v[2], "|") {
				if !slices.ContainsFunc(series, func(s map[string]string) bool { return s[v[1]] == value }) {
					t.Errorf("%s: no %s has %s=%q", what, m[1], v[1], value)
				}
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(query, -1) {
		for _, label := range strings.Split(m[1], ",") {
			if label = strings.TrimSpace(label); !labels[label] {
				t.Errorf("%s: nothing has the label %s in %s", what, label, query)
			}
		}
	}
}

// dashboardQueries returns the queries of the dashboard, by the title of the panel and the
// letter of the query, with the variables that Grafana would fill in.
func dashboardQueries(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title, Type string
			Targets     []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$__rate_interval", "10s", "$namespace", ".*", "$job", ".*", "$proxy", ".*")
	queries := map[string]string{}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			title := panel.Title + " " + target.RefID
			if _, twice := queries[title]; twice {
				t.Errorf("two panels have the title %s", panel.Title)
			}
			if queries[title] = variables.Replace(target.Expr); strings.Contains(queries[title], "$") {
				t.Errorf("panel %s has an unknown variable: %s", title, queries[title])
			}
		}
	}
	if len(queries) < 80 {
		t.Errorf("the dashboard has %d queries, want those of %s", len(queries), dashboardFile)
	}
	return queries
}
