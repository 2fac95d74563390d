// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestPrintedSettingsHaveNoCredentials: the value that is used does.
func TestPrintedSettingsHaveNoCredentials(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://u:hidden@db/limits?sslmode=verify-full&password=hidden": "postgres://u:xxxxx@db/limits?password=xxxxx&sslmode=verify-full",
		"https://config.example.org/p.yaml?signature=hidden":                "https://config.example.org/p.yaml?signature=xxxxx",
		"https://u:hidden@[::1/p":                                           "(a URL that cannot be parsed, not shown)",
		"policy.d":                                                          "policy.d",
	} {
		flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		AddFlags(flags)
		if err := flags.Parse([]string{"--policy", url}); err != nil {
			t.Fatal(err)
		}
		c, settings, err := Load(flags, func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		if c.Policy != url {
			t.Errorf("Policy = %s, want %s", c.Policy, url)
		}
		var out strings.Builder
		if err := Print(&out, settings); err != nil {
			t.Fatal(err)
		}
		if text := out.String() + fmt.Sprint(settings); strings.Contains(text, "hidden") || !strings.Contains(text, want) {
			t.Errorf("printed settings have a credential, or not %s", want)
		}
	}
}

func TestPolicySourceProblems(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(*Config)
		want string
	}{
		"token for a file": {func(c *Config) { c.Policy, c.PolicySource.TokenFile = "p.yaml", "token" }, "policy_token_file: is for --policy https://... only"},
		"CA for postgres":  {func(c *Config) { c.Policy, c.PolicySource.CAFile = "postgres://db/x", "ca.pem" }, "policy_ca_file: is for --policy https://... only"},
		"half a pair":      {func(c *Config) { c.Policy, c.PolicySource.CertFile = "https://h/p", "cert.pem" }, "policy_cert_file: must be set together with --policy-key-file"},
		"interval":         {func(c *Config) { c.PolicySource.Interval = 0 }, "policy_interval: must be more than 0, got 0s"},
	} {
		c := Default()
		c.Name = "n"
		test.edit(c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
