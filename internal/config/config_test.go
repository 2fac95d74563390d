// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func load(t *testing.T, env map[string]string, args ...string) (*Config, []Setting, error) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		return nil, nil, err
	}
	return Load(flags, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	path := write(t, "http: 127.0.0.1:1\ngrpc: 127.0.0.1:2\n\nshutdown_timeout: 3s\nmax_keys: 1_000\njoin: [a:1, b:2]\n")
	c, settings, err := load(t,
		map[string]string{"BUCKETRING_CONFIG": path, "BUCKETRING_GRPC": "127.0.0.1:20", "BUCKETRING_SHUTDOWN_TIMEOUT": "4s"},
		"--shutdown-timeout", "5s", "--insecure", "--name=n1")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Name, want.HTTP, want.GRPC, want.Insecure = "n1", "127.0.0.1:1", "127.0.0.1:20", true
	want.ShutdownTimeout, want.MaxKeys, want.Join = 5*time.Second, 1000, []string{"a:1", "b:2"}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("Load (-want +got):\n%s", diff)
	}
	for key, source := range map[string]string{
		"name": "flag --name", "http": path + ":1", "grpc": "env BUCKETRING_GRPC",
		"shutdown_timeout": "flag --shutdown-timeout", "max_keys": path + ":5", "gossip": "default", "insecure": "flag --insecure",
	} {
		if got := find(settings, key).Source; got != source {
			t.Errorf("source of %s = %q, want %q", key, got, source)
		}
	}
}

func find(settings []Setting, key string) Setting {
	for _, s := range settings {
		if s.Key == key {
			return s
		}
	}
	return Setting{}
}

func TestFlagGivenAsZeroWinsOverFile(t *testing.T) {
	path := write(t, "snapshot_every: 10s\ninsecure: true\n")
	c, _, err := load(t, nil, "-c", path, "--snapshot-every=0", "--insecure=false")
	if err != nil {
		t.Fatal(err)
	}
	if c.SnapshotEvery != 0 || c.Insecure {
		t.Errorf("snapshot_every = %s, insecure = %t, want 0s, false", c.SnapshotEvery, c.Insecure)
	}
}

func TestEmptyFileIsFine(t *testing.T) {
	if _, _, err := load(t, nil, "-c", write(t, "# nothing\n")); err != nil {
		t.Error(err)
	}
}

func TestLoadReportsEveryProblem(t *testing.T) {
	path := write(t, "htpp: 127.0.0.1:1\nmax_keys: many\nmax_keys: 3\npolicy: {a: b}\nzzzzzz: 1\n")
	_, _, err := load(t, map[string]string{"BUCKETRING_DRAIN_DELAY": "soon"}, "-c", path)
	if err == nil {
		t.Fatal("Load = nil, want an error")
	}
	for _, want := range []string{
		path + `:1:1: unknown key "htpp", did you mean "http"?`,
		path + `:3:1: key "max_keys" is given twice`,
		path + `:4:9: policy: must be a string`,
		path + `:5:1: unknown key "zzzzzz"`,
		`max_keys (` + path + `:2): must be a whole number, got "many"`,
		`drain_delay (env BUCKETRING_DRAIN_DELAY): must be a duration such as 10s, got "soon"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Load = %v\nwant it to contain %q", err, want)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, args := range map[string][]string{
		"no such file":   {"-c", filepath.Join(t.TempDir(), "none.yaml")},
		"broken YAML":    {"-c", write(t, "http: [")},
		"not a mapping":  {"-c", write(t, "- http")},
		"bad flag value": {"--max-keys", "x"},
	} {
		if _, _, err := load(t, nil, args...); err == nil {
			t.Errorf("%s: Load = nil, want an error", name)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name  string
		edit  func(*Config)
		wants []string // none: valid
	}{
		{"default", func(*Config) {}, nil},
		{"loopback forms", func(c *Config) { c.HTTP, c.GRPC, c.Gossip = "localhost:0", "[::1]:0", "127.9.9.9:0" }, nil},
		{"exposed", func(c *Config) { c.HTTP, c.GRPC = ":6470", "0.0.0.0:6471" }, []string{
			"http: :6470 is reachable from other machines", "grpc: 0.0.0.0:6471 is reachable",
		}},
		{"exposed on purpose", func(c *Config) { c.HTTP, c.GRPC, c.Insecure = ":6470", "0.0.0.0:6471", true }, nil},
		{"mapped address is not loopback", func(c *Config) { c.HTTP = "[::ffff:10.0.0.1]:1" }, []string{"http: "}},
		{"join", func(c *Config) { c.Join = []string{"a:1"} }, []string{"join: clustering is not in this version"}},
		{"everything", func(c *Config) {
			c.Name, c.HTTP, c.GRPC, c.Gossip, c.Advertise = "a b", "x", "127.0.0.1:99999", "localhost:http", ":1"
			c.MaxKeys, c.DrainDelay, c.LogLevel, c.LogFormat = 0, -1, "inof", "xml"
		}, []string{
			`name: must be 1 to 63`, `http: must be host:port, got "x"`, `grpc: port must be`, `gossip: port must be`, `advertise: must name a host`,
			"max_keys: must be at least 1, got 0", "drain_delay: must not be negative, got -1ns",
			`log_level: must be debug, info, warn, error, got "inof", did you mean "info"?`, `log_format: must be`,
		}},
	} {
		c := Default()
		c.Name = "n1"
		test.edit(c)
		err := c.Validate()
		if len(test.wants) == 0 && err != nil {
			t.Errorf("%s: Validate = %v, want nil", test.name, err)
		}
		for _, want := range test.wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: Validate = %v\nwant it to contain %q", test.name, err, want)
			}
		}
	}
}

func TestPrintCanBeReadBack(t *testing.T) {
	want, settings, err := load(t, nil, "--name=1e3", "--join=a:1,b:2", "--policy=#odd: name", "--http=[::1]:0", "--drain-delay=1500ms")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Print(&out, settings); err != nil {
		t.Fatal(err)
	}
	got, _, err := load(t, nil, "-c", write(t, out.String()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s\nfrom\n%s", diff, out.String())
	}
	if line := "join: ['a:1', 'b:2']"; !strings.Contains(out.String(), "# flag --join") {
		t.Errorf("Print = %s\nwant a line such as %s", out.String(), line)
	}
}
