// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// envoyTLS returns the TLS configuration of Envoy's rate limit service, for Envoy
// and for a control plane. It reads the files for each connection, so that
// certificates can be replaced while the node runs.
func (n *Node) envoyTLS() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	if n.config.EnvoyCertFile != "" {
		pair, err := tls.LoadX509KeyPair(n.config.EnvoyCertFile, n.config.EnvoyKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read envoy_cert_file and envoy_key_file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if n.config.EnvoyCAFile == "" {
		return c, nil
	}
	text, err := os.ReadFile(n.config.EnvoyCAFile)
	if err != nil {
		return nil, fmt.Errorf("read envoy_ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read envoy_ca_file: %s has no PEM certificate", n.config.EnvoyCAFile)
	}
	c.RootCAs, c.ClientCAs, c.ClientAuth = pool, pool, tls.RequireAndVerifyClientCert
	return c, nil
}
