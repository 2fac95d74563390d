// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
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

// envoyServerTLS is envoyTLS for connections of Envoy, whose certificate must have the
// name of envoy_client_san.
func (n *Node) envoyServerTLS() (*tls.Config, error) {
	c, err := n.envoyTLS()
	if err != nil || n.config.EnvoyClientSAN == "" {
		return c, err
	}
	c.VerifyConnection = func(s tls.ConnectionState) error { return checkName(s.PeerCertificates, n.config.EnvoyClientSAN) }
	return c, nil
}

// checkName checks that the first certificate is for name, a DNS name or a URI.
func checkName(certificates []*x509.Certificate, name string) error {
	if len(certificates) == 0 {
		return fmt.Errorf("envoy_client_san: the client has no certificate for %s", name)
	}
	if !strings.Contains(name, "://") {
		if err := certificates[0].VerifyHostname(name); err != nil {
			return fmt.Errorf("envoy_client_san: %w", err)
		}
		return nil
	}
	for _, uri := range certificates[0].URIs {
		if uri.String() == name {
			return nil
		}
	}
	return fmt.Errorf("envoy_client_san: the client's certificate is not for %s", name)
}
