// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/url"
	"regexp"
	"strings"
	"time"
)

var (
	validPrefix = regexp.MustCompile(`^[!-~]{1,64}$`)
	validHeader = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
)

// Envoy reports whether Envoy's rate limit service is on.
func (c *Config) Envoy() bool { return c.EnvoyConfig != "" || c.EnvoyXDS != "" }

// validateEnvoy checks the settings of Envoy's rate limit service.
func (c *Config) validateEnvoy(p *problems) {
	if c.EnvoyConfig != "" && c.EnvoyXDS != "" {
		p.add("envoy_xds", "rules come from one place: set either --envoy-xds or --envoy-config")
	}
	if !c.Envoy() {
		for _, s := range []struct {
			key string
			set bool
		}{{"envoy_listen", c.EnvoyListen != ""}, {"envoy_http", c.EnvoyHTTP != ""}, {"envoy_shadow", c.EnvoyShadow}, {"envoy_headers", c.EnvoyHeaders != ""}, {"envoy_metadata", c.EnvoyMetadata}} {
			if s.set {
				p.add(s.key, "has no effect without --envoy-config or --envoy-xds")
			}
		}
	}
	if (c.EnvoyCertFile == "") != (c.EnvoyKeyFile == "") {
		p.add("envoy_key_file", "must be set together with --envoy-cert-file")
	}
	if !validPrefix.MatchString(c.EnvoyPrefix) {
		p.add("envoy_prefix", "must be 1 to 64 printable characters without spaces, got %q", c.EnvoyPrefix)
	}
	if c.EnvoyHeaders != "" && !validHeader.MatchString(c.EnvoyHeaders) {
		p.add("envoy_headers", "must be at most 64 letters, digits and dashes, got %q", c.EnvoyHeaders)
	}
	p.oneOf("envoy_body", c.EnvoyBody)
	if c.EnvoyXDS != "" {
		switch host, err := splitAddress(c.EnvoyXDS); {
		case err != nil:
			p.add("envoy_xds", "%w", err)
		case host == "":
			p.add("envoy_xds", "must name a host, got %q", c.EnvoyXDS)
		case c.EnvoyXDSNode == "":
			p.add("envoy_xds_node", "must not be empty")
		case c.EnvoyCAFile == "" && !c.Insecure && !isLoopback(host):
			p.add("envoy_xds", "%s is another machine and the connection is not encrypted; set --envoy-ca-file, or allow it with --insecure", c.EnvoyXDS)
		}
	}
	c.validateEnvoyClients(p)
	if c.EnvoyListen != "" {
		path, local := UnixPath(c.EnvoyListen)
		host, err := "", error(nil)
		if !local {
			host, err = splitAddress(c.EnvoyListen)
		}
		switch {
		case err != nil:
			p.add("envoy_listen", "%w", err)
		case local && (path == "" || len(path) > maxUnixPath):
			p.add("envoy_listen", "the path of a socket must have 1 to %d bytes, got %q", maxUnixPath, path)
		case c.EnvoyCAFile != "" && c.EnvoyCertFile == "":
			p.add("envoy_cert_file", "must be set: with --envoy-ca-file, --envoy-listen uses TLS and needs a certificate")
		case !c.Insecure && c.Auth == "" && !local && !isLoopback(host) && (c.EnvoyCertFile == "" || c.EnvoyCAFile == ""):
			p.add("envoy_listen", exposed+"any client could use up any limit; set --envoy-cert-file, --envoy-key-file and --envoy-ca-file, list who may call with --auth, or allow it with --insecure", c.EnvoyListen)
		}
		c.distinctFromNode(p, "envoy_listen", c.EnvoyListen)
	}
	if c.EnvoyHTTP != "" {
		switch host, err := splitAddress(c.EnvoyHTTP); {
		case err != nil:
			p.add("envoy_http", "%w", err)
		case !c.Insecure && c.Auth == "" && !isLoopback(host):
			p.add("envoy_http", exposed+"any client could use up any limit; use a loopback address, list who may call with --auth, or allow it with --insecure", c.EnvoyHTTP)
		}
		c.distinctFromNode(p, "envoy_http", c.EnvoyHTTP)
		p.distinct("envoy_http", c.EnvoyHTTP, "envoy_listen", c.EnvoyListen)
	}
}

// validateEnvoyClients checks the settings of Envoy's connections.
func (c *Config) validateEnvoyClients(p *problems) {
	if c.EnvoyClientSAN != "" {
		if c.EnvoyListen == "" || c.EnvoyCAFile == "" {
			p.add("envoy_client_san", "has no effect without --envoy-listen and --envoy-ca-file, which verifies the certificates")
		}
		uri, err := url.Parse(c.EnvoyClientSAN)
		if strings.Contains(c.EnvoyClientSAN, "://") != (err == nil && uri.Scheme != "" && uri.Host != "") || strings.ContainsAny(c.EnvoyClientSAN, " *") {
			p.add("envoy_client_san", "must be a DNS name or a URI such as spiffe://cluster.local/ns/envoy, without wildcards, got %q", c.EnvoyClientSAN)
		}
	}
	if c.EnvoyConnectionAge < time.Second {
		p.add("envoy_connection_age", "must be at least 1s, got %s", c.EnvoyConnectionAge)
	}
	if c.EnvoyConnectionGrace < time.Second {
		p.add("envoy_connection_grace", "must be at least 1s, got %s", c.EnvoyConnectionGrace)
	}
}

// maxUnixPath is the longest path of a Unix socket, in bytes, on all systems.
const maxUnixPath = 103

// UnixPath returns the path of an address in the form unix:PATH.
func UnixPath(address string) (path string, ok bool) { return strings.CutPrefix(address, "unix:") }

// distinctFromNode requires that an address for Envoy is none of the node's others.
func (c *Config) distinctFromNode(p *problems, key, address string) {
	p.distinct(key, address, "http", c.HTTP)
	p.distinct(key, address, "grpc", c.GRPC)
	p.distinct(key, address, "gossip", c.Gossip)
	p.distinct(key, address, "proxy_listen", c.ProxyListen)
}
