// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
)

// withFiles has all files of TLS.
func withFiles(mode, clientAuth string) TLS {
	return TLS{Mode: mode, CertFile: "a.crt", KeyFile: "a.key", CAFile: "ca.crt", ClientAuth: clientAuth}
}

func TestTLSOfANode(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*Config)
		want string // part of the error; "": none
	}{
		"off":                    {func(*Config) {}, ""},
		"required":               {func(c *Config) { c.TLS = withFiles("required", "none") }, ""},
		"no files":               {func(c *Config) { c.TLS.Mode = "optional" }, "tls_ca_file: must be set with --tls optional"},
		"files without TLS":      {func(c *Config) { c.TLS = withFiles("off", "none") }, "tls_cert_file: has no effect with --tls off"},
		"callers without TLS":    {func(c *Config) { c.TLS.ClientAuth = "require" }, "tls_client_auth: has no effect"},
		"unknown mode":           {func(c *Config) { c.TLS.Mode = "on" }, "tls: must be off, optional, required"},
		"unknown client auth":    {func(c *Config) { c.TLS = withFiles("required", "requier") }, `did you mean "require"`},
		"pattern without a name": {func(c *Config) { c.TLSPeerName = "nodes.example" }, "tls_peer_name: must be a DNS name or a URI with {name}"},
		"exposed, no callers":    {func(c *Config) { c.HTTP, c.TLS = ":6470", withFiles("required", "request") }, "http: :6470 is reachable"},
		"exposed, optional":      {func(c *Config) { c.GRPC, c.TLS = ":6471", withFiles("optional", "require") }, "grpc: :6471 is reachable"},
		"exposed, required":      {func(c *Config) { c.HTTP, c.GRPC, c.TLS = ":6470", ":6471", withFiles("required", "require") }, ""},
		"gossip needs its key":   {func(c *Config) { c.Gossip, c.TLS = ":6472", withFiles("required", "require") }, "gossip: :6472 is reachable"},
		"exposed proxy": {func(c *Config) {
			c.ProxyListen, c.Proxy.Upstream, c.Proxy.Identity, c.TLS = ":6473", "http://127.0.0.1:1", "bearer", withFiles("required", "none")
			c.Policy = "policy.yaml"
		}, ""},
		"proxy without API keys": {func(c *Config) {
			c.ProxyListen, c.Proxy.Upstream, c.Proxy.Identity = "127.0.0.1:6473", "http://127.0.0.1:1", "bearer"
		}, "policy: must be set: the identity bearer needs the api_keys"},
		"exposed proxy with a header": {func(c *Config) {
			c.ProxyListen, c.Proxy.Upstream, c.Proxy.Identity, c.TLS = ":6473", "http://127.0.0.1:1", "header:X-Tenant", withFiles("required", "require")
		}, "proxy_listen: :6473 is reachable"},
	} {
		c := Default()
		c.Name = "n1"
		tt.edit(c)
		check(t, name, c.Validate(), tt.want)
	}
}

func TestTLSOfAProxy(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*StandaloneProxy)
		want string
	}{
		"off":                 {func(*StandaloneProxy) {}, ""},
		"exposed":             {func(c *StandaloneProxy) { c.Listen = ":6473" }, "listen: :6473 is reachable from other machines and the proxy has no TLS"},
		"exposed with TLS":    {func(c *StandaloneProxy) { c.Listen, c.TLS = ":6473", withFiles("required", "none") }, ""},
		"no CA is needed":     {func(c *StandaloneProxy) { c.TLS = withFiles("required", "none"); c.TLS.CAFile = "" }, ""},
		"callers need a CA":   {func(c *StandaloneProxy) { c.TLS = withFiles("required", "require"); c.TLS.CAFile = "" }, "tls_ca_file: must be set"},
		"servers":             {func(c *StandaloneProxy) { c.ServersTLS = ServersTLS{On: true, CAFile: "ca.crt", Name: "n1"} }, ""},
		"servers without TLS": {func(c *StandaloneProxy) { c.ServersTLS.Name = "n1" }, "servers_name: has no effect without --servers-tls"},
		"no key":              {func(c *StandaloneProxy) { c.ServersTLS = ServersTLS{On: true, CertFile: "a.crt"} }, "servers_key_file: must be set together"},
		"exposed header": {func(c *StandaloneProxy) {
			c.Listen, c.Proxy.Identity, c.TLS = ":6473", "header:X-Tenant", withFiles("required", "request")
		}, "anybody could set the header"},
	} {
		c := DefaultStandalone()
		c.Proxy.Upstream, c.Proxy.Identity, c.Policy = "http://127.0.0.1:1", "bearer", "policy.yaml"
		tt.edit(c)
		check(t, name, c.Validate(), tt.want)
	}
}

// TestCertificateOfAProxyForNodes: the certificate for callers is not shown to nodes of another
// CA, which would refuse it.
func TestCertificateOfAProxyForNodes(t *testing.T) {
	for name, tt := range map[string]struct {
		servers      ServersTLS
		wantCert, ca string
	}{
		"one CA":                        {ServersTLS{On: true}, "n1.crt", "ca.crt"},
		"the same CA, twice":            {ServersTLS{On: true, CAFile: "ca.crt"}, "n1.crt", "ca.crt"},
		"another CA":                    {ServersTLS{On: true, CAFile: "nodes.crt"}, "", "nodes.crt"},
		"another CA, and a certificate": {ServersTLS{On: true, CAFile: "nodes.crt", CertFile: "p.crt", KeyFile: "p.key"}, "p.crt", "nodes.crt"},
	} {
		c := DefaultStandalone()
		c.TLS = TLS{Mode: TLSRequired, CertFile: "n1.crt", KeyFile: "n1.key", CAFile: "ca.crt"}
		c.ServersTLS = tt.servers
		if f := c.ServersFiles(); f.Cert != tt.wantCert || f.CA != tt.ca || (f.Key == "") != (f.Cert == "") {
			t.Errorf("%s: ServersFiles() = %+v, want the certificate %q and the CA %q", name, f, tt.wantCert, tt.ca)
		}
	}
}

func check(t *testing.T, name string, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: Validate() = %v, want %q", name, err, want)
	}
}
