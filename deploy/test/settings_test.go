// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	core "k8s.io/api/core/v1"

	"github.com/bucketring/bucketring/internal/config"
)

// ofCommands are variables that commands in a container of a node read, and the node not.
var ofCommands = []string{"BUCKETRING_TLS_NAME"}

var firstColumn = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\|")

// settingsOf returns the YAML keys of a table of internal/config.
func settingsOf(table string) (keys []string) {
	for _, m := range firstColumn.FindAllStringSubmatch(table, -1) {
		keys = append(keys, m[1])
	}
	return keys
}

// TestSettingsFile compares the settings that the chart knows with those that there are.
func TestSettingsFile(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Made by `make manifests` from internal/config: settings that values may have under config and proxy.config.\n")
	for _, kind := range []struct {
		name string
		keys []string
	}{{"node", settingsOf(config.Reference())}, {"proxy", proxySettings()}} {
		fmt.Fprintf(&b, "%s:\n", kind.name)
		for _, k := range kind.keys {
			fmt.Fprintf(&b, "  - %s\n", k)
		}
	}
	writeMade(t, chartDir+"/files/settings.yaml", b.String())
}

// proxySettings are those that a proxy has alone and in a node.
func proxySettings() (keys []string) {
	node := settingsOf(config.Reference())
	for _, k := range settingsOf(config.ProxyReference()) {
		if k != "listen" && slices.Contains(node, "proxy_"+k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// checkSettings loads the settings of every container as the program does, and checks
// that it would start with them.
func (o *objects) checkSettings(t *testing.T) {
	t.Helper()
	for _, w := range o.workloads {
		for _, c := range slices.Concat(w.pod.Spec.InitContainers, w.pod.Spec.Containers) {
			o.checkContainer(t, &w, &c)
		}
	}
}

func (o *objects) checkContainer(t *testing.T, w *workload, c *core.Container) {
	t.Helper()
	vars := env(c)
	for name := range vars {
		if strings.HasPrefix(name, "BUCKETRING_") && !isVariable(name) && !slices.Contains(ofCommands, name) {
			t.Errorf("%s/%s: there is no variable %s", w.name, c.Name, name)
		}
		switch name {
		case "BUCKETRING_NAME":
			vars[name] = w.name + "-0"
		case "BUCKETRING_ADVERTISE":
			vars[name] = "fd00::1"
		case "BUCKETRING_POLICY", "BUCKETRING_PROXY_POLICY":
			vars[name] = "postgres://limits"
		}
	}
	lookup := func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
	flags := pflag.NewFlagSet(c.Name, pflag.ContinueOnError)
	proxy := c.Args[0] == "proxy"
	switch c.Args[0] {
	case "serve":
		config.AddFlags(flags)
	case "proxy":
		config.AddStandaloneFlags(flags)
	case "mock-llm": // the model server of an example
		return
	default:
		t.Fatalf("%s/%s runs %q", w.name, c.Name, c.Args)
	}
	if err := flags.Parse(c.Args[1:]); err != nil {
		t.Fatalf("%s/%s: arguments %v: %v", w.name, c.Name, c.Args, err)
	}
	if file := flags.Lookup("config").Value.String(); file != "" {
		text := o.mounted(t, w, c, file)
		local := filepath.Join(t.TempDir(), "settings.yaml")
		if err := os.WriteFile(local, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := flags.Set("config", local); err != nil {
			t.Fatal(err)
		}
	}
	if proxy {
		settings, list, err := config.LoadStandalone(flags, lookup)
		if err == nil {
			err = settings.Validate()
		}
		if err != nil {
			t.Fatalf("%s/%s would not start: %v", w.name, c.Name, err)
		}
		o.checkFiles(t, w, c, list)
		checkGrace(t, w, settings.DrainDelay+settings.ShutdownTimeout+3*time.Second)
		return
	}
	settings, list, err := config.Load(flags, lookup)
	if err == nil {
		err = settings.Validate()
	}
	if err != nil {
		t.Fatalf("%s/%s would not start: %v", w.name, c.Name, err)
	}
	o.checkFiles(t, w, c, list)
	o.checkNode(t, w, c, settings)
}

// checkNode checks what the settings of a node and its pod have to do with each other.
func (o *objects) checkNode(t *testing.T, w *workload, c *core.Container, s *config.Config) {
	t.Helper()
	if !hasPort(c, "http") || s.HTTP != ":6470" || s.GRPC != ":6471" || s.Gossip != ":6472" || s.ProxyListen != "" && !hasPort(c, "proxy") {
		t.Errorf("%s listens at %s, %s, %s and %s, and has the ports %v", w.name, s.HTTP, s.GRPC, s.Gossip, s.ProxyListen, c.Ports)
	}
	if s.Advertise == "" || s.Name == "" {
		t.Errorf("%s has the name %q and advertises %q, want those of the pod", w.name, s.Name, s.Advertise)
	}
	if host, _, _ := strings.Cut(s.Join[0], "."); len(s.Join) != 1 || host != w.set.Spec.ServiceName {
		t.Errorf("%s joins %v, want the headless service %s", w.name, s.Join, w.set.Spec.ServiceName)
	}
	// More than half of what is expected begin a cluster: fewer than half of the pods must not.
	if replicas := int(*w.replicas); s.BootstrapExpect > replicas || s.BootstrapExpect < replicas/2+1 {
		t.Errorf("%s expects %d members and has %d pods", w.name, s.BootstrapExpect, replicas)
	}
	least := s.HandoverTimeout + s.DrainDelay + s.ShutdownTimeout + 10*time.Second
	if s.ProxyListen != "" {
		least += s.ShutdownTimeout
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		least += checkWait(t, w, c.Lifecycle.PreStop.Exec.Command)
	} else if *w.replicas >= 3 && !noWait(w) {
		t.Errorf("%s does not wait until the cluster can lose a pod", w.name)
	}
	checkGrace(t, w, least)
	if (s.Data != "") != (len(w.claims) > 0) {
		t.Errorf("%s keeps data in %q and has %d claims", w.name, s.Data, len(w.claims))
	}
}

// noWait reports whether the values asked for no wait: then the grace period has no room.
func noWait(w *workload) bool { return *w.pod.Spec.TerminationGracePeriodSeconds < 120 }

// checkWait checks the command that waits, and returns for how long it does.
func checkWait(t *testing.T, w *workload, command []string) time.Duration {
	t.Helper()
	flags := pflag.NewFlagSet("health", pflag.ContinueOnError)
	safe, wait := flags.Bool("safe", false, ""), flags.Duration("wait", 0, "")
	if err := flags.Parse(command[2:]); err != nil || command[1] != "health" || !*safe || *wait <= 0 {
		t.Errorf("%s: preStop %v (%v), want to wait until the cluster is safe", w.name, command, err)
	}
	return *wait
}

func checkGrace(t *testing.T, w *workload, least time.Duration) {
	t.Helper()
	if grace := time.Duration(*w.pod.Spec.TerminationGracePeriodSeconds) * time.Second; grace < least {
		t.Errorf("%s is killed after %s, but its shutdown may take %s", w.name, grace, least)
	}
}

// mounted returns a file of a ConfigMap as the container sees it.
func (o *objects) mounted(t *testing.T, w *workload, c *core.Container, file string) string {
	t.Helper()
	for _, m := range c.VolumeMounts {
		if m.MountPath != path.Dir(file) {
			continue
		}
		for _, v := range w.pod.Spec.Volumes {
			for _, cm := range o.configMaps {
				if v.Name == m.Name && v.ConfigMap != nil && v.ConfigMap.Name == cm.Name {
					if text, ok := cm.Data[path.Base(file)]; ok {
						return text
					}
				}
			}
		}
	}
	t.Fatalf("%s/%s has no file %s", w.name, c.Name, file)
	return ""
}

// checkFiles checks that every path in the settings is below a mount.
func (o *objects) checkFiles(t *testing.T, w *workload, c *core.Container, settings []config.Setting) {
	t.Helper()
	for _, s := range settings {
		file, ok := s.Value.(string)
		if !ok || !strings.HasPrefix(file, "/") {
			continue
		}
		if !slices.ContainsFunc(c.VolumeMounts, func(m core.VolumeMount) bool { return file == m.MountPath || strings.HasPrefix(file, m.MountPath+"/") }) {
			t.Errorf("%s/%s: %s is %s, where nothing is mounted", w.name, c.Name, s.Key, file)
		}
	}
}

// isVariable reports whether a node or a proxy reads an environment variable.
func isVariable(name string) bool {
	return strings.Contains(config.Reference()+config.ProxyReference(), "`"+name+"`")
}
