// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"

	"github.com/bucketring/bucketring/internal/tlsfiles"
)

// Stages of TLS. A running cluster goes from one to the next by rolling restarts.
const (
	TLSOff      = "off"
	TLSOptional = "optional"
	TLSRequired = "required"
)

// TLS has the settings of TLS of a node, or of a proxy that runs alone.
type TLS struct {
	Mode       string `key:"tls" default:"off" choices:"off,optional,required" help:"TLS of all listeners: off, optional (plaintext is accepted too, to move a running cluster) or required"`
	CertFile   string `key:"tls_cert_file" help:"certificate in PEM, also for connections to other members; it and all files of TLS are read again when they change"`
	KeyFile    string `key:"tls_key_file" help:"private key of --tls-cert-file, in PEM"`
	CAFile     string `key:"tls_ca_file" help:"CA certificates in PEM that verify members and callers"`
	ClientAuth string `key:"tls_client_auth" default:"none" choices:"none,request,require" help:"certificates of callers: none, request (verified if there is one) or require"`
}

// On reports whether listeners have TLS.
func (t TLS) On() bool { return t.Mode == TLSOptional || t.Mode == TLSRequired }

// Required reports whether listeners refuse plaintext.
func (t TLS) Required() bool { return t.Mode == TLSRequired }

// Files returns the files, and Settings their names in errors.
func (t TLS) Files() tlsfiles.Files {
	return tlsfiles.Files{Cert: t.CertFile, Key: t.KeyFile, CA: t.CAFile}
}

// TLSSettings are the names of the settings for [TLS.Files].
var TLSSettings = tlsfiles.Files{Cert: "tls_cert_file", Key: "tls_key_file", CA: "tls_ca_file"}

func (t TLS) validate(p *problems, needsCA bool) {
	p.oneOf("tls", t.Mode)
	p.oneOf("tls_client_auth", t.ClientAuth)
	const make1 = "must be set with --tls %s; make certificates with: bucketring certs"
	for _, f := range []struct {
		key, path string
		needed    bool
	}{{"tls_cert_file", t.CertFile, true}, {"tls_key_file", t.KeyFile, true}, {"tls_ca_file", t.CAFile, needsCA || t.ClientAuth != "none"}} {
		if t.On() && f.needed && f.path == "" {
			p.add(f.key, make1, t.Mode)
		}
	}
	if t.Mode == TLSOff && t.ClientAuth != "none" {
		p.add("tls_client_auth", "has no effect without --tls optional or required")
	}
}

// validateTLS checks the settings of TLS.
func (c *Config) validateTLS(p *problems) {
	c.TLS.validate(p, true)
	if c.TLS.Mode == TLSOff && c.TLS.CertFile != "" {
		p.add("tls_cert_file", "has no effect with --tls off; set --tls required, or optional to move a running cluster")
	}
	if err := tlsfiles.Pattern(c.TLSPeerName).Validate(); err != nil {
		p.add("tls_peer_name", "%w", err)
	}
}

// callersHaveCredentials reports whether callers of HTTP and gRPC have to show who they
// are, so that these may be reachable from other machines.
func (c *Config) callersHaveCredentials() bool {
	return c.Auth != "" || c.TLS.Required() && c.TLS.ClientAuth == "require"
}

// proxyHasCredentials is callersHaveCredentials for the proxy in the node, which identifies
// its callers itself. Anybody can set a header.
func (c *Config) proxyHasCredentials() bool {
	return c.TLS.Required() && !strings.HasPrefix(c.Proxy.Identity, "header:")
}

// ServersTLS has the settings of TLS of a proxy's connections to nodes.
type ServersTLS struct {
	On       bool   `key:"servers_tls" help:"use TLS to the nodes of --servers"`
	CertFile string `key:"servers_cert_file" help:"certificate of the proxy for nodes, in PEM; empty means --tls-cert-file, unless --servers-ca-file is another file than --tls-ca-file"`
	KeyFile  string `key:"servers_key_file" help:"private key of --servers-cert-file, in PEM"`
	CAFile   string `key:"servers_ca_file" help:"CA certificates in PEM that verify nodes; empty means --tls-ca-file or, without that, those of the system"`
	Name     string `key:"servers_name" help:"name that the certificates of all nodes must have; empty means the host that is dialed"`
}

// sharesCert reports whether the certificate for callers is also for nodes: if both verify by
// the same CA file. Nodes that have a CA file of their own would most likely refuse it.
func (c *StandaloneProxy) sharesCert() bool {
	s := &c.ServersTLS
	return s.CertFile == "" && (s.CAFile == "" || s.CAFile == c.TLS.CAFile)
}

// ServersFiles returns the files for connections to nodes.
func (c *StandaloneProxy) ServersFiles() tlsfiles.Files {
	f := tlsfiles.Files{Cert: c.ServersTLS.CertFile, Key: c.ServersTLS.KeyFile, CA: c.ServersTLS.CAFile}
	if c.sharesCert() {
		f.Cert, f.Key = c.TLS.CertFile, c.TLS.KeyFile
	}
	if f.CA == "" {
		f.CA = c.TLS.CAFile
	}
	return f
}

// ServersSettings are the names of the settings for [StandaloneProxy.ServersFiles].
func (c *StandaloneProxy) ServersSettings() tlsfiles.Files {
	names := TLSSettings
	if !c.sharesCert() {
		names.Cert, names.Key = "servers_cert_file", "servers_key_file"
	}
	if c.ServersTLS.CAFile != "" {
		names.CA = "servers_ca_file"
	}
	return names
}

// validateTLS checks the settings of TLS.
func (c *StandaloneProxy) validateTLS(p *problems) {
	c.TLS.validate(p, false)
	s := c.ServersTLS
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") && !c.TLS.On() {
		p.add("tls_key_file", "must be set together with --tls-cert-file")
	}
	if (s.CertFile == "") != (s.KeyFile == "") {
		p.add("servers_key_file", "must be set together with --servers-cert-file")
	}
	for _, f := range []struct{ key, value string }{{"servers_cert_file", s.CertFile}, {"servers_ca_file", s.CAFile}, {"servers_name", s.Name}} {
		if !s.On && f.value != "" {
			p.add(f.key, "has no effect without --servers-tls")
		}
	}
}

// callersHaveCredentials reports whether the proxy may be reachable from other machines.
func (c *StandaloneProxy) callersHaveCredentials() bool {
	return c.TLS.Required() && (c.TLS.ClientAuth == "require" || !strings.HasPrefix(c.Proxy.Identity, "header:"))
}
