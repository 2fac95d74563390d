// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
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
		path + `:1:1: unknown key "htpp" in the configuration; did you mean "http"?`,
		path + `:3:1: the configuration has key "max_keys" twice, first at line 2`,
		path + `:4:9: policy must be a single value, got a mapping`,
		path + `:5:1: unknown key "zzzzzz" in the configuration`,
		`max_keys (` + path + `:2): must be a whole number, got "many"`,
		`drain_delay (env BUCKETRING_DRAIN_DELAY): must be a duration such as 10s, got "soon"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Load = %v\nwant it to contain %q", err, want)
		}
	}
}

func TestLoadRejects(t *testing.T) {
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
		{"exposed with insecure", func(c *Config) { c.HTTP, c.GRPC, c.Insecure = ":6470", "0.0.0.0:6471", true }, nil},
		{"mapped address is not loopback", func(c *Config) { c.HTTP = "[::ffff:10.0.0.1]:1" }, []string{"http: "}},
		{"join on this machine", func(c *Config) { c.Join = []string{"127.0.0.1:1", "localhost", "[::1]:3", "::1"} }, nil},
		{"join elsewhere", func(c *Config) {
			c.Join, c.Insecure = []string{"a", "b:2", "10.0.0.1"}, true
			c.HTTP, c.GRPC, c.Gossip = ":6470", ":6471", ":6472"
		}, nil},
		{"join elsewhere from loopback", func(c *Config) { c.Join = []string{"a:1"} }, []string{"gossip: 127.0.0.1:6472 cannot reach a:1 of --join"}},
		{"bad seeds", func(c *Config) { c.Join = []string{"a:b", "c:0", ":7", "d:e:f", "0.0.0.0:1"} }, []string{
			`join: port must be between 0 and 65535, got "a:b"`, `join: port must be between 1 and 65535, got "c:0"`,
			`join: must name a host that other members can reach, got ":7"`, `join: must be host or host:port, got "d:e:f"`, `got "0.0.0.0:1"`,
		}},
		{"gossip exposed", func(c *Config) { c.Gossip = ":6472" }, []string{
			"gossip: :6472 is reachable from other machines and gossip is not encrypted; set --cluster-key-file, or allow it with --insecure",
			"grpc: 127.0.0.1:6471 is not reachable from other machines",
		}},
		{"gossip exposed with a key", func(c *Config) { c.Gossip, c.GRPC, c.ClusterKeyFile = ":6472", "0.0.0.0:6471", "keys" }, []string{
			"grpc: 0.0.0.0:6471 is reachable from other machines and callers need no credentials",
		}},
		{"advertise", func(c *Config) { c.Advertise = "node1.example" }, nil},
		{"advertise with a port", func(c *Config) { c.Advertise = "[fd00::1]:7000" }, nil},
		{"advertise an address", func(c *Config) { c.Advertise = "fd00::1" }, nil},
		{"advertise anything", func(c *Config) { c.Advertise = "0.0.0.0" }, []string{`advertise: must name a host that other members can reach, got "0.0.0.0"`}},
		{"one port twice", func(c *Config) { c.Gossip = c.GRPC }, []string{"gossip: must differ from --grpc, got 127.0.0.1:6471 twice"}},
		{"long name", func(c *Config) { c.Name = strings.Repeat("n", MaxName+1) }, []string{"name: must be 1 to 57"}},
		{"longest name", func(c *Config) { c.Name = strings.Repeat("n", MaxName) }, nil},
		{"cluster", func(c *Config) { c.Cluster, c.ForwardTimeout, c.JoinTimeout = "a b", 0, -1 }, []string{
			`cluster: must be 1 to 64 letters, digits, dots, dashes or underscores, got "a b"`,
			"forward_timeout: must be more than 0, got 0s", "join_timeout: must not be negative, got -1ns",
		}},
		{"envoy", func(c *Config) {
			c.EnvoyConfig, c.EnvoyListen, c.EnvoyHeaders = "rules", "127.0.0.1:8081", "X-RateLimit"
		}, nil},
		{"envoy exposed", func(c *Config) { c.EnvoyConfig, c.EnvoyListen = "rules", ":8081" }, []string{
			"envoy_listen: :8081 is reachable from other machines",
		}},
		{"envoy exposed with insecure", func(c *Config) { c.EnvoyConfig, c.EnvoyListen, c.Insecure = "rules", ":8081", true }, nil},
		{"envoy exposed with certificates alone", func(c *Config) {
			c.EnvoyConfig, c.EnvoyListen, c.EnvoyCertFile, c.EnvoyKeyFile = "rules", ":8081", "c", "k"
		}, []string{"envoy_listen: :8081 is reachable from other machines"}},
		{"envoy exposed with credentials", func(c *Config) {
			c.EnvoyXDS, c.EnvoyListen, c.EnvoyCertFile, c.EnvoyKeyFile, c.EnvoyCAFile = "gateway:18001", ":8081", "c", "k", "ca"
		}, nil},
		{"envoy at a Unix socket", func(c *Config) { c.EnvoyConfig, c.EnvoyListen = "rules", "unix:/run/rls.sock" }, nil},
		{"envoy at a Unix socket without a path", func(c *Config) { c.EnvoyConfig, c.EnvoyListen = "rules", "unix:" }, []string{
			`envoy_listen: the path of a socket must have 1 to 103 bytes, got ""`,
		}},
		{"envoy at a long path", func(c *Config) { c.EnvoyConfig, c.EnvoyListen = "rules", "unix:/"+strings.Repeat("r", 103) }, []string{"envoy_listen: the path of a socket"}},
		{"envoy with a name for its clients", func(c *Config) {
			c.EnvoyConfig, c.EnvoyListen, c.EnvoyCertFile, c.EnvoyKeyFile, c.EnvoyCAFile, c.EnvoyClientSAN = "rules", ":8081", "c", "k", "ca", "envoy.example"
		}, nil},
		{"envoy with a URI for its clients", func(c *Config) {
			c.EnvoyConfig, c.EnvoyListen, c.EnvoyCertFile, c.EnvoyKeyFile, c.EnvoyCAFile, c.EnvoyClientSAN = "rules", ":8081", "c", "k", "ca", "spiffe://cluster.local/ns/envoy"
		}, nil},
		{"envoy with a name for its clients, which are not verified", func(c *Config) {
			c.EnvoyConfig, c.EnvoyListen, c.EnvoyClientSAN = "rules", "127.0.0.1:8081", "envoy.example"
		}, []string{"envoy_client_san: has no effect without --envoy-listen and --envoy-ca-file"}},
		{"envoy with a wildcard for its clients", func(c *Config) {
			c.EnvoyConfig, c.EnvoyListen, c.EnvoyCertFile, c.EnvoyKeyFile, c.EnvoyCAFile, c.EnvoyClientSAN = "rules", ":8081", "c", "k", "ca", "*.example"
		}, []string{"envoy_client_san: must be a DNS name or a URI"}},
		{"envoy with no age of connections", func(c *Config) { c.EnvoyConnectionAge, c.EnvoyConnectionGrace = 0, -1 }, []string{
			"envoy_connection_age: must be at least 1s, got 0s", "envoy_connection_grace: must be at least 1s, got -1ns",
		}},
		{"envoy with rules from another machine", func(c *Config) { c.EnvoyXDS = "gateway:18001" }, []string{"envoy_xds: gateway:18001 is another machine"}},
		{"envoy over HTTP", func(c *Config) { c.EnvoyConfig, c.EnvoyHTTP = "rules", "127.0.0.1:8080" }, nil},
		{"envoy over HTTP exposed", func(c *Config) { c.EnvoyConfig, c.EnvoyHTTP = "rules", ":8080" }, []string{"envoy_http: :8080 is reachable from other machines"}},
		{"envoy over HTTP exposed with insecure", func(c *Config) { c.EnvoyConfig, c.EnvoyHTTP, c.Insecure = "rules", ":8080", true }, nil},
		{"envoy over HTTP without a host", func(c *Config) { c.EnvoyConfig, c.EnvoyHTTP = "rules", "8080" }, []string{`envoy_http: must be host:port, got "8080"`}},
		{"envoy over HTTP at the address of gRPC", func(c *Config) {
			c.EnvoyConfig, c.EnvoyHTTP, c.EnvoyListen = "rules", "127.0.0.1:8081", "127.0.0.1:8081"
		}, []string{"envoy_http: must differ from --envoy-listen, got 127.0.0.1:8081 twice"}},
		{"envoy all wrong", func(c *Config) {
			c.EnvoyXDS, c.EnvoyConfig, c.EnvoyListen, c.EnvoyKeyFile, c.EnvoyCAFile = ":1", "rules", "127.0.0.1:6470", "k", "ca"
			c.EnvoyPrefix, c.EnvoyHeaders, c.EnvoyBody = "a b", "x:y", "openia"
		}, []string{
			"envoy_xds: rules come from one place", "envoy_xds: must name a host", "envoy_key_file: must be set together with --envoy-cert-file", "envoy_cert_file: must be set",
			"envoy_listen: must differ from --http", `envoy_prefix: must be 1 to 64 printable characters without spaces, got "a b"`, "envoy_headers: must be", `did you mean "openai"?`,
		}},
		{"envoy without rules", func(c *Config) { c.EnvoyListen, c.EnvoyHTTP, c.EnvoyShadow = "127.0.0.1:8081", "127.0.0.1:8080", true }, []string{
			"envoy_listen: has no effect without --envoy-config or --envoy-xds", "envoy_http: has no effect", "envoy_shadow: has no effect",
		}},
		{"everything", func(c *Config) {
			c.Name, c.HTTP, c.GRPC, c.Gossip, c.Advertise = "a b", "x", "127.0.0.1:99999", "localhost:http", ":1"
			c.MaxKeys, c.DrainDelay, c.LogLevel, c.LogFormat = 0, -1, "inof", "xml"
		}, []string{
			`name: must be 1 to 57`, `http: must be host:port, got "x"`, `grpc: port must be`, `gossip: port must be`, `advertise: must name a host`,
			"max_keys: must be at least 1, got 0", "drain_delay: must not be negative, got -1ns",
			`log_level: must be debug, info, warn, error, got "inof"; did you mean "info"?`, `log_format: must be`,
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

func TestReadKeys(t *testing.T) {
	const k16, k24, k32 = "AAAAAAAAAAAAAAAAAAAAAA==", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
	keys, err := ReadKeys(write(t, "# newest first\n\n"+k32+"\n  "+k16+" # 2026-01\r\n"+k24))
	if err != nil || len(keys) != 3 || len(keys[0]) != 32 || len(keys[1]) != 16 || len(keys[2]) != 24 {
		t.Errorf("ReadKeys = %v, %v, want keys of 32, 16 and 24 bytes", keys, err)
	}
	for text, want := range map[string]string{
		"":                               ": has no key; make one with: ",
		"# nothing\n":                    ": has no key; make one with: ",
		k16 + "\nsecret!\n":              ":2: must be a key in base64; make one with: ",
		"\nc2VjcmV0\n":                   ":2: must be a key of 16, 24 or 32 bytes, got 6",
		k16 + "\n" + k32 + "\n" + k16:    ":3: repeats the key of line 1",
		"c2VjcmV0\n" + k16 + "\n!\nAA==": ":4: must be a key of 16",
	} {
		_, err := ReadKeys(write(t, text))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "cluster_key_file: ") {
			t.Errorf("ReadKeys(%q) = %v, want cluster_key_file: ...%s", text, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret!") || strings.Contains(err.Error(), "c2VjcmV0")) {
			t.Errorf("ReadKeys(%q) = %v, which shows a key", text, err)
		}
	}
	if _, err := ReadKeys(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadKeys of nothing = %v, want ErrNotExist", err)
	}
}
