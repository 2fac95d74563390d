// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/bucketring/bucketring/internal/config"
)

// TestComposePorts: every port that docker-compose.yml publishes has a variable, whose default
// is another for each, which docs/operating.md describes and no command takes for a setting.
func TestComposePorts(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct{ Ports []string }
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	documented, err := os.ReadFile(filepath.Join(root, operating))
	if err != nil {
		t.Fatal(err)
	}
	published := regexp.MustCompile(`^127\.0\.0\.1:\$\{(BUCKETRING_[A-Z0-9_]+):-(\d+)\}:\d+$`)
	defaults := map[string]string{} // variables by default
	for name, s := range file.Services {
		for _, port := range s.Ports {
			m := published.FindStringSubmatch(port)
			if m == nil {
				t.Errorf("%s publishes %s, want 127.0.0.1:${BUCKETRING_...:-PORT}:PORT", name, port)
				continue
			}
			if other, taken := defaults[m[2]]; taken {
				t.Errorf("%s and %s have the same default %s", m[1], other, m[2])
			}
			defaults[m[2]] = m[1]
			if !strings.Contains(string(documented), "`"+m[1]+"`") {
				t.Errorf("%s does not describe %s", operating, m[1])
			}
			if unknown := config.UnknownVariables([]string{m[1] + "=1"}); len(unknown) > 0 {
				t.Errorf("commands take %s for a setting", m[1])
			}
			if strings.Contains(config.Reference()+config.ProxyReference(), "`"+m[1]+"`") {
				t.Errorf("%s is a setting, too", m[1])
			}
		}
	}
	if got, want := slices.Sorted(maps.Keys(defaults)), []string{"6470", "6471", "6473", "6474", "6480", "6481", "6490", "6491"}; !slices.Equal(got, want) {
		t.Errorf("published by default are %v, want %v", got, want)
	}
}
