// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/tls"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/tlsfiles"
	"github.com/bucketring/bucketring/rpc/client"
)

// ProxyTLS is the TLS of a proxy that runs alone.
type ProxyTLS struct {
	inbound, servers *tlsfiles.Store // nil: plaintext
	metrics          *tlsfiles.Metrics
	settings         config.TLS
	name             string // of nodes
	log              *slog.Logger
}

// OpenProxyTLS reads the files of a proxy that runs alone.
func OpenProxyTLS(c *config.StandaloneProxy, reg prometheus.Registerer, log *slog.Logger) (*ProxyTLS, error) {
	t := &ProxyTLS{settings: c.TLS, name: c.ServersTLS.Name, log: log}
	var stores []*tlsfiles.Store
	open := func(f, settings tlsfiles.Files, name string) (*tlsfiles.Store, error) {
		s, err := tlsfiles.Open(tlsfiles.Options{Files: f, Settings: settings, Name: name, Logger: log})
		stores = append(stores, s)
		return s, err
	}
	var err error
	if c.TLS.On() {
		if t.inbound, err = open(c.TLS.Files(), config.TLSSettings, "proxy"); err != nil {
			return nil, err
		}
	}
	if c.ServersTLS.On {
		if t.servers, err = open(c.ServersFiles(), c.ServersSettings(), "servers"); err != nil {
			return nil, err
		}
	}
	if len(stores) > 0 {
		reg.MustRegister(tlsfiles.NewCollector(stores...))
		t.metrics = tlsfiles.NewMetrics(reg)
	}
	return t, nil
}

// Nodes adds credentials to the options of the client of nodes.
func (t *ProxyTLS) Nodes(o client.Options) client.Options {
	if t.servers != nil {
		o.Insecure, o.Credentials = false, t.servers.ServerCredentials(t.name)
	}
	return o
}

// Listeners returns the listeners of callers and of administrators, with TLS if it is on.
// Administrators need no certificates, as health checks have none.
func (t *ProxyTLS) Listeners(callersAt, adminAt net.Listener) (proxy, admin net.Listener) {
	return SecureHTTP(t.inbound, callersAt, t.metrics, t.settings, "proxy", callers(t.settings.ClientAuth), t.log),
		SecureHTTP(t.inbound, adminAt, t.metrics, t.settings, "admin", tls.NoClientCert, t.log)
}

// Scheme returns that of the URLs of the proxy.
func (t *ProxyTLS) Scheme() string {
	if t.inbound != nil {
		return "https"
	}
	return "http"
}

// SecureHTTP returns a listener with the TLS of settings for a server of HTTP, or l if
// files is nil. name is that of the listener in metrics.
func SecureHTTP(files *tlsfiles.Store, l net.Listener, m *tlsfiles.Metrics, c config.TLS, name string, auth tls.ClientAuthType, log *slog.Logger) net.Listener {
	if files == nil {
		return l
	}
	return files.Listener(l, tlsfiles.ServerOptions{
		Name: name, Optional: !c.Required(), ClientAuth: auth, NextProtos: []string{"h2", "http/1.1"}, Metrics: m, Logger: log,
	})
}
