// SPDX-License-Identifier: Apache-2.0

// Package deploy tests what deploy/ has for Kubernetes, systemd and Compose. It is a
// module of its own, so that Helm and Kubernetes are no dependencies of bucketring.
// `make deploy` runs the tests; with -update they write the files that are made from
// others.
package deploy

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the files that are made from others")

const (
	root     = "../.."
	chartDir = root + "/deploy/helm/bucketring"
)

// parseValues reads values of the chart.
func parseValues(t *testing.T, text string) map[string]any {
	t.Helper()
	values := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatalf("%v in values\n%s", err, text)
	}
	return values
}

// template renders the chart as `helm template` does, by the names of templates.
func template(release, values string, t *testing.T) (map[string]string, error) {
	t.Helper()
	chart, err := loader.LoadDir(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	options := common.ReleaseOptions{Name: release, Namespace: "limits", Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(chart, parseValues(t, values), options, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	rendered, err := engine.Render(chart, all)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for path, text := range rendered {
		if name := filepath.Base(path); !strings.HasPrefix(name, "_") {
			files[name] = text
		}
	}
	return files, nil
}

// render is template and strict decoding. What was rendered is shown if it is not right.
func render(t *testing.T, release, values string) *objects {
	t.Helper()
	files, err := template(release, values, t)
	if err != nil {
		t.Fatalf("template with\n%s\n%v", values, err)
	}
	delete(files, "NOTES.txt")
	o := &objects{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		o.decode(t, name, files[name])
	}
	return o
}

// secure are values with all credentials.
const secure = `
clusterKey: { existingSecret: the-cluster-key }
auth: { existingSecret: the-callers }
tls: { mode: required, existingSecret: the-certificate }
`

// cases are values to install the chart with, by what they are for.
var cases = map[string]string{
	"open":        "insecure: true",
	"secure":      secure,
	"one node":    "{ insecure: true, replicas: 1 }",
	"two nodes":   "{ insecure: true, replicas: 2 }",
	"five nodes":  "{ insecure: true, replicas: 5, bootstrapExpect: 3 }",
	"no wait":     "{ insecure: true, shutdown: { safeWaitSeconds: 0 } }",
	"named":       "{ insecure: true, fullnameOverride: limits-of-all-the-models-that-we-have-in-europe-and-elsewhere }",
	"other name":  "{ insecure: true, nameOverride: limiter, serviceAccount: { create: false } }",
	"no policies": "{ insecure: true, networkPolicy: { enabled: false }, podDisruptionBudget: { enabled: false }, spread: { host: none, zone: none } }",
	"journal":     "{ insecure: true, persistence: { enabled: true, size: 20Gi, storageClass: fast, whenDeleted: Delete } }",
	"own policy":  "{ insecure: true, policy: { existingConfigMap: the-policy } }",
	"policy url":  "{ insecure: true, policy: { url: 'https://config.example.org/policy.yaml' } }",
	"policy in a database": "{ insecure: true, policy: { urlSecret: { name: the-database } }, proxy: " + proxyValues + ", networkPolicy: { restrictEgress: true, " +
		"egress: [{ to: [{ podSelector: { matchLabels: { app: postgres } } }], ports: [{ port: 5432 }] }] } }",
	"envoy":     `{ insecure: true, envoy: { rules: { rules.yaml: "domain: d" } } }`,
	"resp":      `{ insecure: true, resp: { enabled: true } }`,
	"own rules": "{ insecure: true, envoy: { existingConfigMap: the-rules } }",
	"settings": `
insecure: true
config: { max_keys: 20000000, log_level: debug, forward_timeout: 500ms, snapshot_every: 30s, max_connections: 10_000 }
extraArgs: [--log-format=json]
extraEnv: [{ name: BUCKETRING_MAX_IDS, value: "2000000" }]
extraVolumes: [{ name: logs, emptyDir: {} }]
extraVolumeMounts: [{ name: logs, mountPath: /logs }]
resources: { requests: { cpu: 2, memory: 8Gi }, limits: { cpu: 4, memory: 8Gi } }
`,
	"proxy in nodes": "{ insecure: true, proxy: { mode: node, upstream: 'http://vllm:8000', identity: 'header:X-Tenant', config: { on_disconnect: drain, pass: [safe] } } }",
	"proxy":          "{ insecure: true, proxy: " + proxyValues + " }",
	"secure proxy": secure + `
proxy:
  mode: deployment
  upstream: https://models.example.org
  identity: jwt:sub
  tlsSecret: the-proxy-certificate
  nodeToken: { name: the-proxy-token }
  upstreamKey: { name: the-upstream-key }
  jwtKeys: { name: the-jwt-keys }
  autoscaling: { enabled: true, minReplicas: 3, maxReplicas: 30 }
`,
	"secure proxy in nodes": secure + "proxy: { mode: node, upstream: 'http://vllm:8000', identity: jwt:sub, upstreamKey: { name: the-upstream-key }, jwtKeys: { name: the-jwt-keys, key: keys.pem } }\n",
	"certificate of a driver": strings.Replace(secure, "existingSecret: the-certificate",
		`volume: { csi: { driver: csi.cert-manager.io, readOnly: true, volumeAttributes: { csi.cert-manager.io/issuer-name: members, csi.cert-manager.io/dns-names: "${POD_NAME}" } } }, peerName: "spiffe://example.org/bucketring/{name}"`, 1),
	"monitoring": secure + `
serviceMonitor: { enabled: true, labels: { release: prometheus }, tokenSecret: { name: the-metrics-token } }
prometheusRule: { enabled: true, labels: { release: prometheus } }
dashboard: { enabled: true }
networkPolicy: { metrics: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: monitoring } } }] }
proxy: ` + strings.Replace(proxyValues, "{", "{ tlsSecret: the-proxy-certificate, ", 1) + "\n",
	"placement": `
insecure: true
affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchExpressions: [{ key: gpu, operator: DoesNotExist }] }] } } }
nodeSelector: { kubernetes.io/os: linux }
tolerations: [{ key: dedicated, operator: Exists }]
priorityClassName: system-cluster-critical
podLabels: { team: limits }
podAnnotations: { note: "yes" }
imagePullSecrets: [{ name: the-registry }]
service: { type: LoadBalancer, annotations: { internal: "true" } }
`,
}

const proxyValues = "{ mode: deployment, upstream: 'http://vllm:8000', identity: bearer, config: { lease: 60s, max_body: 16777216 } }"

// TestChart renders the chart with many values and checks that the objects fit together.
func TestChart(t *testing.T) {
	for name, values := range cases {
		t.Run(name, func(t *testing.T) {
			for _, release := range []string{"bucketring", "a-release-whose-name-is-as-long-as-helm-allows-here53"} {
				o := render(t, release, values)
				o.check(t, values)
				o.checkSettings(t)
			}
		})
	}
}

// TestCombinations renders values that concern the same objects in all combinations.
func TestCombinations(t *testing.T) {
	choices := [][]string{
		{"insecure: true", secure},
		{"", "persistence: { enabled: true }"},
		{"policy: { existingConfigMap: the-policy }", "policy: { url: 'https://example.org/p.yaml' }", ""},
		{"", "proxy: { mode: node, upstream: 'http://m:8000', identity: bearer }", "proxy: { mode: deployment, upstream: 'http://m:8000', identity: bearer, tlsSecret: the-proxy-certificate }"},
		{"replicas: 1", "replicas: 3"},
		{"", "networkPolicy: { restrictEgress: true }\nserviceMonitor: { enabled: true }"},
	}
	combined := []string{""}
	for _, choice := range choices {
		var next []string
		for _, values := range combined {
			for _, c := range choice {
				next = append(next, values+c+"\n")
			}
		}
		combined = next
	}
	for _, values := range combined {
		o := render(t, "bucketring", values)
		o.check(t, values)
		o.checkSettings(t)
		if t.Failed() {
			t.Fatalf("with the values\n%s", values)
		}
	}
}

// TestLint checks the chart as `helm lint --strict` does.
func TestLint(t *testing.T) {
	for name, values := range cases {
		for _, m := range lint.RunAll(chartDir, parseValues(t, values), "limits").Messages {
			if m.Severity >= support.WarningSev {
				t.Errorf("%s: %v", name, m)
			}
			if m.Severity == support.InfoSev && !strings.Contains(m.Err.Error(), "icon is recommended") {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

// TestWrongValues checks that wrong values are refused with an error that names them.
func TestWrongValues(t *testing.T) {
	for values, want := range map[string]string{
		"":                                                                                  "auth.existingSecret: must name a secret, or else insecure must be true",
		"auth: { existingSecret: callers }":                                                 "clusterKey.existingSecret: must name a secret",
		"{ insecure: true, replicaCount: 3 }":                                               "additional properties 'replicaCount' not allowed",
		"{ insecure: true, replicas: 0 }":                                                   "/replicas",
		"{ insecure: true, replicas: three }":                                               "/replicas",
		"insecure: 'yes'":                                                                   "/insecure",
		"{ insecure: true, tls: { mode: on } }":                                             "/tls/mode",
		"{ insecure: true, tls: { mode: required } }":                                       "tls.existingSecret: must name a secret",
		"{ insecure: true, image: { pullPolicy: Sometimes } }":                              "/image/pullPolicy",
		"{ insecure: true, resources: { limits: { memory: 2G } } }":                         "/resources/limits/memory",
		"{ insecure: true, policy: { files: { p.yml: '' } } }":                              "invalid propertyName 'p.yml'",
		"{ insecure: true, policy: { files: { policy.yaml: null } } }":                      "policy.files: must have a file",
		"{ insecure: true, policy: { url: 'ftp://example.org' } }":                          "/policy/url",
		"{ insecure: true, config: { max_key: 1 } }":                                        "config.max_key: is no setting of a node",
		"{ insecure: true, config: { join: a } }":                                           "config.join: is set by the chart: the headless service",
		"{ insecure: true, config: { proxy_lease: 1m } }":                                   "config.proxy_lease: belongs to proxy.config, without proxy_",
		"{ insecure: true, config: { max_keys: { a: 1 } } }":                                "/config/max_keys",
		"{ insecure: true, extraArgs: [serve] }":                                            "/extraArgs/0",
		"{ insecure: true, shutdown: { handoverSeconds: 30s } }":                            "/shutdown/handoverSeconds",
		"{ insecure: true, spread: { host: sometimes } }":                                   "/spread/host",
		"{ insecure: true, proxy: { mode: sidecar } }":                                      "/proxy/mode",
		"{ insecure: true, proxy: { mode: node } }":                                         "proxy.upstream: must be the URL",
		"{ insecure: true, proxy: { mode: node, upstream: 'http://m' } }":                   "proxy.identity: must be bearer",
		"{ insecure: true, proxy: { mode: node, upstream: 'm:8000' } }":                     "/proxy/upstream",
		"{ insecure: true, proxy: { mode: node, upstream: 'http://m', identity: nobody } }": "/proxy/identity",
		secure + "proxy: { mode: node, upstream: 'http://m', identity: 'header:X' }":        "an identity that is no header",
		secure + "proxy: " + proxyValues:                                                    "proxy.tlsSecret: must name a secret",
		proxyWith("upstream: 'http://x'"):                                                   "proxy.config.upstream: is set by another value",
		proxyWith("lise: 1m"):                                                               "proxy.config.lise: is no setting of the proxy",
		"{ insecure: true, serviceMonitor: { interval: 15 } }":                              "/serviceMonitor/interval",
		"{ insecure: true, clusterKey: { existingSecret: 'No Name' } }":                     "/clusterKey/existingSecret",
	} {
		_, err := template("bucketring", values, t)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("values %q: %v\nwant an error with %q", values, err, want)
		}
	}
}

func proxyWith(config string) string {
	return fmt.Sprintf("{ insecure: true, proxy: { mode: node, upstream: 'http://m', identity: bearer, config: { %s } } }", config)
}

// TestNotes checks what is said after an installation.
func TestNotes(t *testing.T) {
	for values, want := range map[string][]string{
		"insecure: true": {"WARNING: insecure is set. Whoever the network policy lets through", "http://bucketring.limits.svc.cluster.local:6470", "lost when all pods stop"},
		"{ insecure: true, replicas: 2, networkPolicy: { enabled: false } }": {"Whoever reaches the pods", "WARNING: with fewer than three nodes"},
		secure: {"https://bucketring.limits.svc.cluster.local:6470", "exec bucketring-0 -- /bucketring health --safe"},
	} {
		files, err := template("bucketring", values, t)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range want {
			if !strings.Contains(files["NOTES.txt"], text) {
				t.Errorf("with %s the notes are\n%s\nwant %q", values, files["NOTES.txt"], text)
			}
		}
		if strings.Contains(values, "the-cluster-key") && strings.Contains(files["NOTES.txt"], "insecure") {
			t.Errorf("with credentials the notes warn of insecure:\n%s", files["NOTES.txt"])
		}
	}
}

// writeMade compares a file with what it is made of, or writes it with -update.
func writeMade(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err == nil && string(got) == want {
		return
	}
	if !*update {
		t.Errorf("%s is not what it is made from: run make manifests (%v)", path, err)
		return
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
