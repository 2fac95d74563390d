// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/tls"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/internal/tlsfiles"
)

// envoyCredentials returns the credentials of the server at envoy_listen. With
// envoy_ca_file, Envoy must have a certificate, which must have the name of
// envoy_client_san.
func (n *Node) envoyCredentials() []grpc.ServerOption {
	if n.config.EnvoyCertFile == "" {
		return nil
	}
	o := tlsfiles.ServerOptions{Name: "envoy", Metrics: n.tls.metrics, Logger: n.log}
	if n.config.EnvoyCAFile != "" {
		o.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if san := n.config.EnvoyClientSAN; san != "" {
		o.Verify = func(s tls.ConnectionState) error {
			if err := tlsfiles.HasName(s.PeerCertificates[0], san); err != nil { // there is one: it was verified
				return fmt.Errorf("envoy_client_san: %w", err)
			}
			return nil
		}
	}
	return []grpc.ServerOption{grpc.Creds(n.tls.envoy.Credentials(o))}
}

// planeCredentials returns the credentials for the control plane.
func (n *Node) planeCredentials() (grpc.DialOption, error) {
	if n.config.EnvoyCAFile == "" {
		return grpc.WithTransportCredentials(insecure.NewCredentials()), nil
	}
	return grpc.WithTransportCredentials(n.tls.envoy.ServerCredentials("")), nil
}
