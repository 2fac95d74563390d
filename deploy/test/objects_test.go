// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// objects are what the chart, or a manifest, makes.
type objects struct {
	all        []meta.Object
	kinds      []string // of all, in the same order
	configMaps []*core.ConfigMap
	accounts   []*core.ServiceAccount
	services   []*core.Service
	workloads  []workload
	budgets    []*policy.PodDisruptionBudget
	policies   []*networking.NetworkPolicy
	scalers    []*autoscaling.HorizontalPodAutoscaler
	monitors   []*monitoring.ServiceMonitor
	rules      []*monitoring.PrometheusRule
}

// workload is what makes pods.
type workload struct {
	kind, name string
	selector   *meta.LabelSelector
	pod        core.PodTemplateSpec
	claims     []core.PersistentVolumeClaim
	set        *apps.StatefulSet // nil for a Deployment
	replicas   *int32
}

var separator = regexp.MustCompile(`(?m)^---\s*$`)

// decode reads the documents of a file strictly: unknown and repeated fields are errors.
func (o *objects) decode(t *testing.T, file, text string) {
	t.Helper()
	for _, doc := range separator.Split(text, -1) {
		var kind meta.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatalf("%s: %v in\n%s", file, err, doc)
		}
		if kind.Kind == "" {
			if strings.TrimSpace(comment.ReplaceAllString(doc, "")) != "" {
				t.Fatalf("%s: no kind in\n%s", file, doc)
			}
			continue
		}
		o.add(t, file, doc, kind)
	}
}

var comment = regexp.MustCompile(`(?m)^\s*#.*$`)

// strict decodes a document of one kind.
func strict[T any, P interface {
	*T
	meta.Object
}](t *testing.T, file, doc string) P {
	t.Helper()
	v := P(new(T))
	text, err := yaml.YAMLToJSONStrict([]byte(doc))
	if err != nil {
		t.Fatalf("%s: %v in\n%s", file, err, doc)
	}
	// As the API server does it: the case of names matters.
	if problems, err := json.UnmarshalStrict(text, v); err != nil || len(problems) > 0 {
		t.Fatalf("%s: %v %v in\n%s", file, err, problems, doc)
	}
	return v
}

func (o *objects) add(t *testing.T, file, doc string, kind meta.TypeMeta) {
	t.Helper()
	var object meta.Object
	switch kind.APIVersion + " " + kind.Kind {
	case "v1 ConfigMap":
		v := strict[core.ConfigMap](t, file, doc)
		o.configMaps, object = append(o.configMaps, v), v
	case "v1 ServiceAccount":
		v := strict[core.ServiceAccount](t, file, doc)
		o.accounts, object = append(o.accounts, v), v
	case "v1 Service":
		v := strict[core.Service](t, file, doc)
		o.services, object = append(o.services, v), v
	case "apps/v1 StatefulSet":
		v := strict[apps.StatefulSet](t, file, doc)
		o.workloads, object = append(o.workloads, workload{kind.Kind, v.Name, v.Spec.Selector, v.Spec.Template, v.Spec.VolumeClaimTemplates, v, v.Spec.Replicas}), v
	case "apps/v1 Deployment":
		v := strict[apps.Deployment](t, file, doc)
		o.workloads, object = append(o.workloads, workload{kind.Kind, v.Name, v.Spec.Selector, v.Spec.Template, nil, nil, v.Spec.Replicas}), v
	case "policy/v1 PodDisruptionBudget":
		v := strict[policy.PodDisruptionBudget](t, file, doc)
		o.budgets, object = append(o.budgets, v), v
	case "networking.k8s.io/v1 NetworkPolicy":
		v := strict[networking.NetworkPolicy](t, file, doc)
		o.policies, object = append(o.policies, v), v
	case "autoscaling/v2 HorizontalPodAutoscaler":
		v := strict[autoscaling.HorizontalPodAutoscaler](t, file, doc)
		o.scalers, object = append(o.scalers, v), v
	case "monitoring.coreos.com/v1 ServiceMonitor":
		v := strict[monitoring.ServiceMonitor](t, file, doc)
		o.monitors, object = append(o.monitors, v), v
	case "monitoring.coreos.com/v1 PrometheusRule":
		v := strict[monitoring.PrometheusRule](t, file, doc)
		o.rules, object = append(o.rules, v), v
	default:
		t.Fatalf("%s: %s %s is not expected in\n%s", file, kind.APIVersion, kind.Kind, doc)
	}
	o.all, o.kinds = append(o.all, object), append(o.kinds, kind.Kind)
}

// check checks that the objects fit together. values are those of the chart, which must
// name every object that is not made.
func (o *objects) check(t *testing.T, values string) {
	t.Helper()
	seen := map[string]bool{}
	for i, object := range o.all {
		if bad := validation.IsDNS1035Label(object.GetName()); len(bad) > 0 {
			t.Errorf("name %q: %v", object.GetName(), bad)
		}
		if id := o.kinds[i] + "/" + object.GetName(); seen[id] {
			t.Errorf("there are two of %s", id)
		} else {
			seen[id] = true
		}
		for k, v := range object.GetLabels() {
			if bad := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...); len(bad) > 0 {
				t.Errorf("label %s=%s of %s: %v", k, v, object.GetName(), bad)
			}
		}
	}
	made := func(kind, name string) bool { return seen[kind+"/"+name] || named(values, name) }
	for _, w := range o.workloads {
		o.checkWorkload(t, w)
		o.checkReferences(t, w, made)
	}
	o.checkServices(t)
	o.checkSelectors(t)
	o.checkNetwork(t)
	for _, s := range o.scalers {
		target := s.Spec.ScaleTargetRef
		i := slices.IndexFunc(o.workloads, func(w workload) bool { return w.kind == target.Kind && w.name == target.Name })
		if i < 0 || o.workloads[i].replicas != nil {
			t.Errorf("autoscaler %s: %s/%s must exist, without replicas", s.Name, target.Kind, target.Name)
		}
	}
	for _, m := range o.monitors {
		o.checkMonitor(t, m, made)
	}
	for _, r := range o.rules {
		if len(r.Spec.Groups) == 0 {
			t.Errorf("PrometheusRule %s has no groups", r.Name)
		}
	}
}

// named reports whether values name an object.
func named(values, name string) bool {
	return regexp.MustCompile(`\b` + regexp.QuoteMeta(name) + `\b`).MatchString(values)
}

// checkWorkload checks one pod: security, memory, probes, and the time that it gets to stop.
func (o *objects) checkWorkload(t *testing.T, w workload) {
	t.Helper()
	spec := w.pod.Spec
	s := spec.SecurityContext
	if s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser != 65532 || s.SeccompProfile == nil || s.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: security context of the pod %+v, want the user of the image and a seccomp profile", w.name, s)
	}
	if spec.HostNetwork || spec.HostPID || spec.HostIPC || spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		t.Errorf("%s: wants no namespace of the host and no token", w.name)
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		s := c.SecurityContext
		if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
			s.Privileged != nil && *s.Privileged || s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") || len(s.Capabilities.Add) > 0 {
			t.Errorf("%s/%s: security context %+v, want a read-only file system and no privileges", w.name, c.Name, s)
		}
		checkMemory(t, w.name, &c)
		checkProbes(t, w.name, &c)
		if len(c.Command) > 0 {
			t.Errorf("%s/%s: command %v, want args: the image has its entry point", w.name, c.Name, c.Command)
		}
	}
	if w.set == nil {
		return
	}
	if longest := w.name + "-199"; len(longest) > 57 {
		t.Errorf("the name of a member, %s, has more than 57 characters", longest)
	}
	if w.set.Spec.PodManagementPolicy != apps.ParallelPodManagement {
		t.Errorf("%s starts its pods one after the other: none is ready before most are there", w.name)
	}
	if w.set.Spec.UpdateStrategy.Type != apps.RollingUpdateStatefulSetStrategyType {
		t.Errorf("%s: update strategy %s, want one pod after the other", w.name, w.set.Spec.UpdateStrategy.Type)
	}
}

// checkMemory checks that GOMEMLIMIT is nine tenths of the limit.
func checkMemory(t *testing.T, workload string, c *core.Container) {
	t.Helper()
	limit := c.Resources.Limits.Memory().Value()
	value, _, ok := strings.Cut(env(c)["GOMEMLIMIT"], "MiB")
	n, err := strconv.ParseInt(value, 10, 64)
	if !ok || err != nil || n<<20 > limit*9/10 || n<<20 < limit*9/10-1<<20 {
		t.Errorf("%s/%s: GOMEMLIMIT %sMiB, want nine tenths of %d", workload, c.Name, value, limit)
	}
	if request := c.Resources.Requests.Memory().Value(); request == 0 || request > limit {
		t.Errorf("%s/%s requests %d bytes with a limit of %d", workload, c.Name, request, limit)
	}
}

// checkProbes checks that probes ask ports of the container, and that commands are the
// binary: there is nothing else in the image.
func checkProbes(t *testing.T, workload string, c *core.Container) {
	t.Helper()
	if c.LivenessProbe == nil || c.ReadinessProbe == nil {
		t.Errorf("%s/%s wants probes", workload, c.Name)
	}
	for path, p := range map[string]*core.Probe{"/livez": c.LivenessProbe, "/readyz": c.ReadinessProbe, "/livez ": c.StartupProbe} {
		if p == nil {
			continue
		}
		if p.Exec != nil && p.Exec.Command[0] == "/bucketring" {
			continue
		}
		if p.HTTPGet == nil || p.HTTPGet.Path != strings.TrimSpace(path) || !hasPort(c, p.HTTPGet.Port.StrVal) {
			t.Errorf("%s/%s: probe %+v, want %s at a port of the container", workload, c.Name, p.HTTPGet, path)
		}
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		exec := c.Lifecycle.PreStop.Exec
		if exec == nil || exec.Command[0] != "/bucketring" {
			t.Errorf("%s/%s: preStop %+v, want the binary: the image has no shell", workload, c.Name, exec)
		}
	}
}

func hasPort(c *core.Container, name string) bool {
	return slices.ContainsFunc(c.Ports, func(p core.ContainerPort) bool { return p.Name == name })
}

// env returns the variables of a container whose values are known, and "" for others.
func env(c *core.Container) map[string]string {
	vars := map[string]string{}
	for _, v := range c.Env {
		vars[v.Name] = v.Value
	}
	return vars
}

// checkReferences checks that all that a pod uses exists, or is named in the values.
func (o *objects) checkReferences(t *testing.T, w workload, made func(kind, name string) bool) {
	t.Helper()
	spec := w.pod.Spec
	want := func(kind, name string) {
		t.Helper()
		if !made(kind, name) {
			t.Errorf("%s uses %s %s, which is neither made nor named", w.name, kind, name)
		}
	}
	volumes := map[string]bool{}
	for _, v := range spec.Volumes {
		if volumes[v.Name] {
			t.Errorf("%s has two volumes %s", w.name, v.Name)
		}
		volumes[v.Name] = true
		switch {
		case v.ConfigMap != nil:
			want("ConfigMap", v.ConfigMap.Name)
		case v.Secret != nil:
			want("Secret", v.Secret.SecretName)
			if mode := v.Secret.DefaultMode; mode == nil || *mode != 0o440 {
				t.Errorf("%s: files of secret %s have mode %v, want 0440: the group is fsGroup", w.name, v.Secret.SecretName, mode)
			}
		}
	}
	for _, c := range w.claims {
		volumes[c.Name] = true
	}
	used := map[string]bool{}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		paths := map[string]bool{}
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] || paths[m.MountPath] || m.SubPath != "" {
				t.Errorf("%s/%s mounts %+v, want a volume, at a path of its own and whole: a subPath is never updated", w.name, c.Name, m)
			}
			used[m.Name], paths[m.MountPath] = true, true
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				want("Secret", e.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	for name := range volumes {
		if !used[name] {
			t.Errorf("%s: volume %s is not mounted", w.name, name)
		}
	}
	if name := spec.ServiceAccountName; name != "default" && name != "" {
		want("ServiceAccount", name)
	}
	for _, p := range spec.ImagePullSecrets {
		want("Secret", p.Name)
	}
}

// checkServices checks that services select pods of one workload, at ports that exist.
func (o *objects) checkServices(t *testing.T) {
	t.Helper()
	for _, s := range o.services {
		selected := o.selected(labels.SelectorFromSet(s.Spec.Selector))
		if len(selected) != 1 {
			t.Errorf("service %s selects %d workloads, want 1", s.Name, len(selected))
			continue
		}
		for _, p := range s.Spec.Ports {
			ok := slices.ContainsFunc(slices.Concat(selected[0].pod.Spec.InitContainers, selected[0].pod.Spec.Containers), func(c core.Container) bool {
				return slices.ContainsFunc(c.Ports, func(q core.ContainerPort) bool { return q.Name == p.TargetPort.StrVal && q.Protocol == p.Protocol })
			})
			if !ok {
				t.Errorf("service %s: port %s leads to %s, which %s does not have", s.Name, p.Name, p.TargetPort.StrVal, selected[0].name)
			}
		}
	}
	for _, w := range o.workloads {
		if w.set == nil {
			continue
		}
		i := slices.IndexFunc(o.services, func(s *core.Service) bool { return s.Name == w.set.Spec.ServiceName })
		if i < 0 {
			t.Errorf("%s: there is no service %s", w.name, w.set.Spec.ServiceName)
		} else if s := o.services[i]; s.Spec.ClusterIP != core.ClusterIPNone || !s.Spec.PublishNotReadyAddresses {
			t.Errorf("service %s must be headless, with pods that are not ready: members must find each other first", s.Name)
		}
	}
}

// selected returns the workloads whose pods match.
func (o *objects) selected(selector labels.Selector) (found []workload) {
	for _, w := range o.workloads {
		if selector.Matches(labels.Set(w.pod.Labels)) {
			found = append(found, w)
		}
	}
	return found
}

func (o *objects) selectedBy(t *testing.T, selector *meta.LabelSelector) []workload {
	t.Helper()
	s, err := meta.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return o.selected(s)
}

// checkSelectors checks that each workload selects its own pods only, and so do budgets
// and spreads.
func (o *objects) checkSelectors(t *testing.T) {
	t.Helper()
	only := func(what string, selector *meta.LabelSelector) *workload {
		found := o.selectedBy(t, selector)
		if len(found) != 1 {
			t.Errorf("%s selects the pods of %d workloads, want 1", what, len(found))
			return nil
		}
		return &found[0]
	}
	for _, w := range o.workloads {
		if got := only(w.kind+" "+w.name, w.selector); got != nil && got.name != w.name {
			t.Errorf("%s selects the pods of %s", w.name, got.name)
		}
		for _, c := range w.pod.Spec.TopologySpreadConstraints {
			if got := only("spread of "+w.name, c.LabelSelector); got != nil && got.name != w.name {
				t.Errorf("the spread of %s selects the pods of %s", w.name, got.name)
			}
		}
	}
	for _, b := range o.budgets {
		got := only("budget "+b.Name, b.Spec.Selector)
		if b.Spec.MaxUnavailable == nil || b.Spec.MaxUnavailable.IntValue() != 1 || got == nil || got.name != b.Name {
			t.Errorf("budget %s: %+v, want one pod of that name at a time", b.Name, b.Spec)
		}
	}
}

// checkNetwork checks that policies open ports that exist, and the gossip of members to
// members only.
func (o *objects) checkNetwork(t *testing.T) {
	t.Helper()
	for _, p := range o.policies {
		found := o.selectedBy(t, &p.Spec.PodSelector)
		if len(found) != 1 || found[0].name != p.Name {
			t.Errorf("network policy %s applies to %d workloads, want that of its name", p.Name, len(found))
			continue
		}
		open := map[string]bool{}
		for _, c := range slices.Concat(found[0].pod.Spec.InitContainers, found[0].pod.Spec.Containers) {
			for _, port := range c.Ports {
				open[strconv.Itoa(int(port.ContainerPort))+string(port.Protocol)] = false
			}
		}
		for _, rule := range p.Spec.Ingress {
			if len(rule.From) == 0 || len(rule.Ports) == 0 {
				t.Errorf("network policy %s has a rule for everybody or for all ports: %+v", p.Name, rule)
			}
			for _, port := range rule.Ports {
				id := port.Port.String() + string(*port.Protocol)
				if _, ok := open[id]; !ok {
					t.Errorf("network policy %s opens %s, at which nothing listens", p.Name, id)
				}
				open[id] = true
				if port.Port.IntValue() != 6472 {
					continue
				}
				for _, from := range rule.From {
					if from.PodSelector == nil || from.NamespaceSelector != nil || !slices.ContainsFunc(o.selectedBy(t, from.PodSelector), func(w workload) bool { return w.name == found[0].name }) ||
						len(o.selectedBy(t, from.PodSelector)) != 1 {
						t.Errorf("network policy %s lets %+v reach gossip, want members only", p.Name, from)
					}
				}
			}
		}
		for _, id := range slices.Sorted(maps.Keys(open)) {
			if !open[id] {
				t.Errorf("network policy %s opens port %s to nobody", p.Name, id)
			}
		}
	}
}

// checkMonitor checks that each endpoint of a ServiceMonitor is at a port of exactly one
// service that it selects: otherwise a pod would be scraped twice, or not at all.
func (o *objects) checkMonitor(t *testing.T, m *monitoring.ServiceMonitor, made func(kind, name string) bool) {
	t.Helper()
	selector, err := meta.LabelSelectorAsSelector(&m.Spec.Selector)
	if err != nil {
		t.Fatal(err)
	}
	scraped := map[string]int{}
	for _, e := range m.Spec.Endpoints {
		for _, s := range o.services {
			if !selector.Matches(labels.Set(s.Labels)) || !slices.ContainsFunc(s.Spec.Ports, func(p core.ServicePort) bool { return p.Name == e.Port }) {
				continue
			}
			for _, w := range o.selected(labels.SelectorFromSet(s.Spec.Selector)) {
				scraped[w.name]++
			}
		}
		if e.Authorization != nil && !made("Secret", e.Authorization.Credentials.Name) {
			t.Errorf("ServiceMonitor %s uses secret %s", m.Name, e.Authorization.Credentials.Name)
		}
	}
	for _, w := range o.workloads {
		if scraped[w.name] != 1 {
			t.Errorf("ServiceMonitor %s scrapes each pod of %s %d times, want 1", m.Name, w.name, scraped[w.name])
		}
	}
}
