// SPDX-License-Identifier: Apache-2.0

package config

import (
	"regexp"
	"strings"
)

var (
	validPrefix = regexp.MustCompile(`^[!-~]{1,64}$`)
	validHeader = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
)

// Envoy reports whether Envoy's rate limit service is on.
func (c *Config) Envoy() bool { return c.EnvoyConfig != "" || c.EnvoyXDS != "" }

// validateEnvoy looks at the settings of Envoy's rate limit service.
func (c *Config) validateEnvoy(bad func(key, format string, args ...any)) {
	if c.EnvoyConfig != "" && c.EnvoyXDS != "" {
		bad("envoy_xds", "rules come from one place: set either this or envoy_config")
	}
	if !c.Envoy() {
		for _, s := range []struct {
			key string
			set bool
		}{{"envoy_listen", c.EnvoyListen != ""}, {"envoy_http", c.EnvoyHTTP != ""}, {"envoy_shadow", c.EnvoyShadow}, {"envoy_headers", c.EnvoyHeaders != ""}, {"envoy_metadata", c.EnvoyMetadata}} {
			if s.set {
				bad(s.key, "does nothing without envoy_config or envoy_xds")
			}
		}
	}
	if (c.EnvoyCertFile == "") != (c.EnvoyKeyFile == "") {
		bad("envoy_key_file", "goes with envoy_cert_file: set both or neither")
	}
	if !validPrefix.MatchString(c.EnvoyPrefix) {
		bad("envoy_prefix", "must be 1 to 64 printable characters without spaces, got %q", c.EnvoyPrefix)
	}
	if c.EnvoyHeaders != "" && !validHeader.MatchString(c.EnvoyHeaders) {
		bad("envoy_headers", "must be at most 64 letters, digits and dashes, got %q", c.EnvoyHeaders)
	}
	if c.EnvoyXDS != "" {
		switch host, err := splitAddress(c.EnvoyXDS); {
		case err != nil:
			bad("envoy_xds", "%w", err)
		case host == "":
			bad("envoy_xds", "must name a host, got %q", c.EnvoyXDS)
		case c.EnvoyXDSNode == "":
			bad("envoy_xds_node", "must not be empty")
		case c.EnvoyCAFile == "" && !c.Insecure && !isLoopback(host):
			bad("envoy_xds", "%s is another machine, and what it says is not protected; set envoy_ca_file, or allow it with insecure", c.EnvoyXDS)
		}
	}
	if c.EnvoyListen != "" {
		c.validateEnvoyListen(bad)
	}
	if c.EnvoyHTTP != "" {
		switch host, err := splitAddress(c.EnvoyHTTP); {
		case err != nil:
			bad("envoy_http", "%w", err)
		case !c.Insecure && !isLoopback(host):
			bad("envoy_http", "%s is reachable from other machines, and whoever reaches it may use up any limit; use a loopback address, or allow it with insecure", c.EnvoyHTTP)
		}
		c.differs(bad, "envoy_http", c.EnvoyHTTP, "envoy_listen", c.EnvoyListen)
	}
}

func (c *Config) validateEnvoyListen(bad func(key, format string, args ...any)) {
	host, err := splitAddress(c.EnvoyListen)
	switch {
	case err != nil:
		bad("envoy_listen", "%w", err)
	case c.EnvoyCAFile != "" && c.EnvoyCertFile == "":
		bad("envoy_cert_file", "envoy_listen needs a certificate of its own to ask for those of others with envoy_ca_file")
	case !c.Insecure && !isLoopback(host) && (c.EnvoyCertFile == "" || c.EnvoyCAFile == ""):
		bad("envoy_listen", "%s is reachable from other machines, and whoever reaches it may use up any limit; set envoy_cert_file, envoy_key_file and envoy_ca_file, or allow it with insecure", c.EnvoyListen)
	}
	c.differs(bad, "envoy_listen", c.EnvoyListen)
}

// differs wants an address for Envoy not to be one of the node's, nor that of more,
// which are pairs of a key and an address.
func (c *Config) differs(bad complaint, key, address string, more ...string) {
	others := append([]string{"http", c.HTTP, "grpc", c.GRPC, "gossip", c.Gossip, "proxy_listen", c.ProxyListen}, more...)
	for i := 0; i < len(others); i += 2 {
		if address == others[i+1] && !strings.HasSuffix(address, ":0") {
			bad(key, "must differ from %s, got %s twice", others[i], address)
		}
	}
}
