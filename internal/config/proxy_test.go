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

// A proxy has the same environment variables alone and in a node.
func TestProxySettingsHaveOneVariable(t *testing.T) {
	env := map[string]string{
		"BUCKETRING_PROXY_UPSTREAM": "http://127.0.0.1:8000", "BUCKETRING_PROXY_IDENTITY": "bearer",
		"BUCKETRING_PROXY_PASS": "GET /a, /b", "BUCKETRING_PROXY_LISTEN": "127.0.0.1:1", "BUCKETRING_PROXY_UPSTREAM_TIMEOUT": "3s",
	}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	node, _, err := load(t, env)
	if err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddStandaloneFlags(flags)
	path := write(t, "on_disconnect: drain\nidentity: header:X\npolicy: p.yaml\nlisten: 127.0.0.1:2\n")
	if err := flags.Parse([]string{"--config", path, "--max-body", "5"}); err != nil {
		t.Fatal(err)
	}
	alone, settings, err := LoadStandalone(flags, lookup)
	if err != nil {
		t.Fatal(err)
	}
	want := node.Proxy
	if want.Upstream == "" || len(want.Pass) != 2 || want.UpstreamTimeout != 3*time.Second || node.ProxyListen != "127.0.0.1:1" {
		t.Errorf("a node has %+v at %q, want the settings of the environment", want, node.ProxyListen)
	}
	want.OnDisconnect, want.MaxBody = "drain", 5
	if diff := cmp.Diff(want, alone.Proxy); diff != "" {
		t.Errorf("LoadStandalone (-want +got):\n%s", diff)
	}
	if alone.Listen != "127.0.0.1:1" || alone.Policy != "p.yaml" || alone.Admin != "127.0.0.1:6474" {
		t.Errorf("LoadStandalone = %+v, want listen of the environment, policy of the file, admin by default", alone)
	}
	for key, source := range map[string]string{"identity": "env BUCKETRING_PROXY_IDENTITY", "on_disconnect": path + ":1", "max_body": "flag --max-body", "servers": "default"} {
		if got := find(settings, key).Source; got != source {
			t.Errorf("source of %s = %q, want %q", key, got, source)
		}
	}
}

func TestValidateStandalone(t *testing.T) {
	good := func(c *StandaloneProxy) { c.Proxy.Upstream, c.Proxy.Identity = "http://x", "header:X" }
	for _, test := range []struct {
		name string
		edit func(*StandaloneProxy)
		want string // "": valid
	}{
		{"good", func(*StandaloneProxy) {}, ""},
		{"nothing", func(c *StandaloneProxy) { *c = *DefaultStandalone() }, "upstream: must be the URL"},
		{"no identity", func(c *StandaloneProxy) { c.Proxy.Identity = "" }, "identity: must be bearer, header:NAME or jwt:CLAIM: nobody is trusted by default"},
		{"bearer without a policy", func(c *StandaloneProxy) { c.Proxy.Identity = "bearer" }, "policy: must be set"},
		{"exposed", func(c *StandaloneProxy) { c.Listen = ":1" }, "listen: :1 is reachable from other machines"},
		{"admin exposed", func(c *StandaloneProxy) { c.Admin = "0.0.0.0:1" }, "admin: 0.0.0.0:1 is reachable from other machines"},
		{"exposed with insecure", func(c *StandaloneProxy) { c.Listen, c.Admin, c.Insecure = ":1", ":2", true }, ""},
		{"one address twice", func(c *StandaloneProxy) { c.Admin = c.Listen }, "admin: must differ from --listen"},
		{"no servers", func(c *StandaloneProxy) { c.Servers = nil }, "servers: must name a node"},
		{"jwt without keys", func(c *StandaloneProxy) { c.Proxy.Identity = "jwt:sub" }, "jwt_keys: must be set for identity jwt:sub"},
		{"two kinds of keys", func(c *StandaloneProxy) {
			c.Proxy.Identity, c.Proxy.JWTKeys, c.Proxy.JWTSecretFile = "jwt:sub", "a", "b"
		}, "jwt_secret_file: must not be set together"},
		{"keys without jwt", func(c *StandaloneProxy) { c.Proxy.JWTKeys = "a" }, "identity: must be jwt:CLAIM if there are settings for tokens"},
		{"identity form", func(c *StandaloneProxy) { c.Proxy.IdentityForm = "segmnt" }, `did you mean "segment"?`},
		{"form of a policy's keys", func(c *StandaloneProxy) {
			c.Proxy.Identity, c.Proxy.IdentityForm, c.Policy = "bearer", "segment", "p"
		}, "identity_form: must be path with identity bearer"},
		{"on disconnect", func(c *StandaloneProxy) { c.Proxy.OnDisconnect = "drian" }, `did you mean "drain"?`},
		{"numbers", func(c *StandaloneProxy) { c.Proxy.MaxBody = 0 }, "max_body: must be at least 1"},
		{"little memory for bodies", func(c *StandaloneProxy) { c.Proxy.BodyMemory = 2*c.Proxy.MaxBody - 2 }, "body_memory: must be 0 or at least twice --max-body"},
		{"no waits", func(c *StandaloneProxy) { c.Proxy.MaxWait = 0 }, ""},
		{"negative wait", func(c *StandaloneProxy) { c.Proxy.MaxWait = -1 }, "max_wait: must be between 0s and 10m, got -1ns"},
		{"long wait", func(c *StandaloneProxy) { c.Proxy.MaxWait = time.Hour }, "max_wait: must be between 0s and 10m, got 1h0m0s"},
		{"times", func(c *StandaloneProxy) { c.Proxy.UpstreamTimeout = 0 }, "upstream_timeout: must be more than 0"},
		{"shutdown", func(c *StandaloneProxy) { c.ShutdownTimeout = -1 }, "shutdown_timeout: must not be negative"},
		{"log", func(c *StandaloneProxy) { c.LogLevel = "loud" }, "log_level: must be"},
	} {
		c := DefaultStandalone()
		good(c)
		test.edit(c)
		err := c.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Validate = %v, want %q", test.name, err, test.want)
		}
	}
}

func TestReadSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	for content, want := range map[string]string{"s3cret\r\n": "s3cret", " a b ": " a b "} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadSecret("key_file", path); err != nil || got != want {
			t.Errorf("ReadSecret(%q) = %q, %v, want %q", content, got, err, want)
		}
	}
	if err := os.WriteFile(path, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecret("key_file", path); err == nil || !strings.HasPrefix(err.Error(), "key_file: ") {
		t.Errorf("ReadSecret of an empty file = %v, want an error that names the setting", err)
	}
}
