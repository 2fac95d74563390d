// SPDX-License-Identifier: Apache-2.0

package tlsfiles

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/bucketring/bucketring/internal/tlserror"
)

// Client returns the configuration of one connection to a server, which is verified by
// its name. Without CA certificates, those of the system verify it. An empty name means
// the host that is dialed.
func (s *Store) Client(name string) *tls.Config {
	m := s.load()
	return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name, RootCAs: m.pool, GetClientCertificate: s.clientCertificate}
}

// clientCertificate gives a certificate to servers that ask, also if it is none of their
// CAs: then they say so.
func (s *Store) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if m := s.load(); m.cert != nil {
		return m.cert, nil
	}
	return &tls.Certificate{}, nil
}

// ServerCredentials are for gRPC connections to servers, with the files as they are at
// each connection. name is as for [Store.Client].
func (s *Store) ServerCredentials(name string) credentials.TransportCredentials {
	return &dialer{info: credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}), config: func(authority string) *tls.Config {
		c := s.Client(name)
		if name == "" {
			c.ServerName = hostOf(authority)
		}
		return c
	}}
}

// MemberCredentials are for gRPC connections to a member, whose certificate must be for
// it. An empty name means any member.
func (s *Store) MemberCredentials(p Pattern, name string) credentials.TransportCredentials {
	return &dialer{info: credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), config: func(authority string) *tls.Config {
		c := s.Client(hostOf(authority))
		pool := c.RootCAs
		c.InsecureSkipVerify = true //nolint:gosec // VerifyConnection verifies the certificate: a member's name need not be that of its host
		c.VerifyConnection = func(state tls.ConnectionState) error { return s.verifyMember(pool, state, p, name) }
		return c
	}}
}

// verifyMember verifies the certificate of a server that must be a member.
func (s *Store) verifyMember(pool *x509.CertPool, state tls.ConnectionState, p Pattern, name string) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the member has no certificate")
	}
	leaf := state.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	who := name
	if who == "" {
		who = "a member"
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: intermediates, CurrentTime: s.options.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return explained(fmt.Errorf("the certificate of %s is not accepted: %w", who, err))
	}
	if name != "" {
		return p.Check(leaf, name)
	}
	if !p.IsMember(leaf) {
		return fmt.Errorf("the certificate is for %s, and is not that of a member", listOf(namesOf(leaf)))
	}
	return nil
}

// explained adds what to do to an error.
func explained(err error) error {
	if hint := tlserror.Remedy(err); hint != "" {
		return fmt.Errorf("%w; %s", err, hint)
	}
	return err
}

func hostOf(authority string) string {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		return authority
	}
	return host
}

// dialer makes a configuration for each connection.
type dialer struct {
	info   credentials.TransportCredentials
	config func(authority string) *tls.Config
}

var _ credentials.TransportCredentials = (*dialer)(nil)

// ClientHandshake implements credentials.TransportCredentials.
func (d *dialer) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config := d.config(authority)
	// It takes the name to verify from the authority.
	conn, info, err := credentials.NewTLS(config).ClientHandshake(ctx, config.ServerName, c)
	if err != nil {
		return nil, nil, explained(err)
	}
	return conn, info, nil
}

// ServerHandshake implements credentials.TransportCredentials.
func (d *dialer) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for callers")
}

// Info implements credentials.TransportCredentials.
func (d *dialer) Info() credentials.ProtocolInfo { return d.info.Info() }

// Clone implements credentials.TransportCredentials.
func (d *dialer) Clone() credentials.TransportCredentials { return d }

// OverrideServerName implements credentials.TransportCredentials. The name is fixed.
func (d *dialer) OverrideServerName(string) error { return nil }
