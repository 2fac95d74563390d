// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	sigs "sigs.k8s.io/yaml"
)

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestCopies compares what the chart has copies of with the originals: Helm reads files of
// the chart only.
func TestCopies(t *testing.T) {
	const from = "# A copy of deploy/prometheus/rules.yaml: `make manifests`.\n"
	writeMade(t, chartDir+"/files/rules.yaml", from+comment.ReplaceAllString(readFile(t, root+"/deploy/prometheus/rules.yaml"), ""))
	writeMade(t, chartDir+"/files/dashboard.json", readFile(t, root+"/deploy/grafana/bucketring.json"))
}

// manifests are made from the chart with these values, for those who do not use Helm.
var manifests = map[string]string{
	"cluster.yaml":            "{ insecure: true, clusterKey: { existingSecret: bucketring-cluster-key } }",
	"cluster-with-proxy.yaml": "{ insecure: true, clusterKey: { existingSecret: bucketring-cluster-key }, proxy: { mode: deployment, upstream: 'http://vllm:8000', identity: bearer } }",
	"cluster-tls.yaml": `
clusterKey: { existingSecret: bucketring-cluster-key }
auth: { existingSecret: bucketring-auth }
tls: { mode: required, existingSecret: bucketring-tls }
persistence: { enabled: true }
`,
}

// TestManifests compares the committed manifests with what the chart makes.
func TestManifests(t *testing.T) {
	for name, values := range manifests {
		files, err := template("bucketring", values, t)
		if err != nil {
			t.Fatal(err)
		}
		delete(files, "NOTES.txt")
		var b strings.Builder
		fmt.Fprintf(&b, "# SPDX-License-Identifier: Apache-2.0\n# Made by `make manifests` from the chart deploy/helm/bucketring with these values:\n#   %s\n", strings.Join(strings.Split(strings.TrimSpace(values), "\n"), "\n#   "))
		for _, file := range slices.Sorted(maps.Keys(files)) {
			for _, doc := range separator.Split(files[file], -1) {
				if doc = strings.TrimSpace(blank.ReplaceAllString(doc, "\n")); doc != "" {
					b.WriteString("---\n" + doc + "\n")
				}
			}
		}
		text := strings.NewReplacer("\n  namespace: limits", "", ".limits.svc.", ".bucketring.svc.", "    app.kubernetes.io/managed-by: Helm\n", "").Replace(b.String())
		writeMade(t, root+"/deploy/manifests/"+name, text)
	}
}

var blank = regexp.MustCompile(`\n\s*\n`)

// TestExamples checks the manifests: strictly decoded, and started with settings that exist.
func TestExamples(t *testing.T) {
	entries, err := os.ReadDir(root + "/deploy/manifests")
	if err != nil || len(entries) < len(manifests) {
		t.Fatalf("%d manifests (%v), want at least %d", len(entries), err, len(manifests))
	}
	for _, e := range entries {
		o := &objects{}
		o.decode(t, e.Name(), readFile(t, root+"/deploy/manifests/"+e.Name()))
		o.check(t, "bucketring-cluster-key bucketring-auth bucketring-tls bucketring-policy")
		o.checkSettings(t)
	}
}

// TestValuesTable compares the table of values in the README with values.yaml.
func TestValuesTable(t *testing.T) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(readFile(t, chartDir+"/values.yaml")), &doc); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| value | default | meaning |\n|---|---|---|\n")
	valuesTable(t, &b, "", doc.Content[0])
	const begin, end = "<!-- values -->\n", "<!-- end of values -->"
	readme := readFile(t, chartDir+"/README.md")
	head, rest, ok := strings.Cut(readme, begin)
	_, tail, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("README.md has no table between %s and %s", begin, end)
	}
	writeMade(t, chartDir+"/README.md", head+begin+b.String()+end+tail)
}

// valuesTable adds a row for each value. A value needs a comment.
func valuesTable(t *testing.T, b *strings.Builder, prefix string, node *yaml.Node) {
	t.Helper()
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		name := prefix + key.Value
		lines := strings.Split(strings.TrimSpace(key.HeadComment), "\n")
		help := strings.TrimSpace(strings.TrimPrefix(lines[len(lines)-1], "#"))
		whole := value.Kind != yaml.MappingNode || len(value.Content) == 0 || slices.Contains([]string{"policy.files", "resources", "proxy.resources", "dashboard.labels"}, name)
		if help == "" && whole {
			t.Errorf("%s has no comment in values.yaml", name)
		}
		if !whole {
			valuesTable(t, b, name+".", value)
			continue
		}
		text, err := yaml.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		shown := strings.TrimSpace(string(text))
		if strings.Contains(shown, "\n") || strings.HasPrefix(shown, "-") {
			var v any
			if err := value.Decode(&v); err != nil {
				t.Fatal(err)
			}
			flow, err := yaml.Marshal(flowOf(value))
			if err != nil {
				t.Fatal(err)
			}
			shown = strings.TrimSpace(string(flow))
		}
		if name == "policy.files" {
			shown = "three tiers"
		} else {
			shown = "`" + shown + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, shown, help)
	}
}

// flowOf writes a value in one line.
func flowOf(node *yaml.Node) *yaml.Node {
	flow := *node
	flow.Style, flow.HeadComment = yaml.FlowStyle, ""
	return &flow
}

// TestSchemaHasAllValues checks that the schema describes exactly the values that there are.
func TestSchemaHasAllValues(t *testing.T) {
	var values, schema map[string]any
	for path, into := range map[string]any{"/values.yaml": &values, "/values.schema.json": &schema} {
		if err := sigs.Unmarshal([]byte(readFile(t, chartDir+path)), into); err != nil {
			t.Fatal(err)
		}
	}
	compareSchema(t, "", values, schema)
}

func compareSchema(t *testing.T, prefix string, values, schema map[string]any) {
	t.Helper()
	properties, ok := schema["properties"].(map[string]any)
	if !ok || schema["additionalProperties"] != false {
		return // free values, such as labels
	}
	for name := range properties {
		if _, ok := values[name]; !ok && prefix+name != "global" {
			t.Errorf("the schema has %s%s, which is not in values.yaml", prefix, name)
		}
	}
	for name, value := range values {
		inner, ok := properties[name].(map[string]any)
		if !ok {
			t.Errorf("%s%s is not in the schema", prefix, name)
			continue
		}
		if v, ok := value.(map[string]any); ok {
			compareSchema(t, prefix+name+".", v, inner)
		}
	}
}

// TestAlerts checks that each alert has a section in docs/alerts.md and two unit tests.
func TestAlerts(t *testing.T) {
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, For          string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(readFile(t, root+"/deploy/prometheus/rules.yaml")), &rules); err != nil {
		t.Fatal(err)
	}
	var unit struct{ Tests []struct{ Name string } }
	if err := yaml.Unmarshal([]byte(readFile(t, root+"/deploy/prometheus/rules_test.yaml")), &unit); err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, u := range unit.Tests {
		tests[u.Name] = true
	}
	doc := readFile(t, root+"/docs/alerts.md")
	sections := map[string]string{} // by alert
	for _, s := range strings.Split(doc, "\n### ")[1:] {
		name, text, _ := strings.Cut(s, "\n")
		sections[name] = text
	}
	alerts := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			alerts++
			text := sections[r.Alert]
			for _, part := range []string{"`" + r.Labels["severity"] + "`", r.Annotations["summary"], "**Means:**", "**Look at:**", "**Do:**"} {
				if part == "" || !strings.Contains(text, part) {
					t.Errorf("docs/alerts.md does not have %q for %s", part, r.Alert)
				}
			}
			if r.For != "" && !strings.Contains(text, "after "+r.For) {
				t.Errorf("docs/alerts.md does not say that %s fires after %s", r.Alert, r.For)
			}
			if url := r.Annotations["runbook_url"]; !strings.HasSuffix(url, "/docs/alerts.md#"+strings.ToLower(r.Alert)) {
				t.Errorf("%s has the runbook %s", r.Alert, url)
			}
			if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
				t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
			}
			if !tests[r.Alert+" fires"] || !tests[r.Alert+" does not fire"] {
				t.Errorf("%s needs two tests in rules_test.yaml", r.Alert)
			}
		}
	}
	if alerts != len(sections) || alerts == 0 {
		t.Errorf("docs/alerts.md has %d sections for %d alerts", len(sections), alerts)
	}
}
