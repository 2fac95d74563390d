// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/tlsfiles"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/replication"
)

// nodeTLS is the TLS of a node: that of its listeners and of its connections to members,
// and that of Envoy's rate limit service, which has files of its own.
type nodeTLS struct {
	files   *tlsfiles.Store // nil: off
	envoy   *tlsfiles.Store // nil: none
	members tlsfiles.Pattern
	metrics *tlsfiles.Metrics // nil: neither
}

// openTLS reads the files of TLS.
func (n *Node) openTLS() (err error) {
	c := n.config
	n.tls.members = tlsfiles.Pattern(c.TLSPeerName)
	if c.TLS.On() {
		n.tls.files, err = tlsfiles.Open(tlsfiles.Options{
			Files: c.TLS.Files(), Settings: config.TLSSettings, Name: "node", Own: true, Logger: n.log,
			Check: func(leaf *x509.Certificate) error { return n.tls.members.Check(leaf, c.Name) },
		})
		if err != nil {
			return err
		}
	}
	if c.EnvoyCertFile != "" || c.EnvoyCAFile != "" {
		n.tls.envoy, err = tlsfiles.Open(tlsfiles.Options{
			Files:    tlsfiles.Files{Cert: c.EnvoyCertFile, Key: c.EnvoyKeyFile, CA: c.EnvoyCAFile},
			Settings: tlsfiles.Files{Cert: "envoy_cert_file", Key: "envoy_key_file", CA: "envoy_ca_file"}, Name: "envoy", Logger: n.log,
		})
		if err != nil {
			return err
		}
	}
	if stores := n.tls.stores(); len(stores) > 0 {
		n.tls.metrics = tlsfiles.NewMetrics(n.registry)
		n.registry.MustRegister(tlsfiles.NewCollector(stores...))
	}
	return nil
}

func (t *nodeTLS) stores() (list []*tlsfiles.Store) {
	for _, s := range []*tlsfiles.Store{t.files, t.envoy} {
		if s != nil {
			list = append(list, s)
		}
	}
	return list
}

// callers returns whether callers at HTTP and gRPC must have certificates.
func callers(setting string) tls.ClientAuthType {
	switch setting {
	case "require":
		return tls.RequireAndVerifyClientCert
	case "request":
		return tls.VerifyClientCertIfGiven
	}
	return tls.NoClientCert
}

// secureHTTP returns a listener with TLS for a server of HTTP, or l if TLS is off.
func (n *Node) secureHTTP(l net.Listener, name string, auth tls.ClientAuthType) net.Listener {
	return SecureHTTP(n.tls.files, l, n.tls.metrics, n.config.TLS, name, auth, n.log)
}

// grpcCredentials returns the credentials of the server of gRPC. Members have certificates
// whatever callers have, so all are asked for one.
func (n *Node) grpcCredentials() []grpc.ServerOption {
	if n.tls.files == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.Creds(n.tls.files.Credentials(tlsfiles.ServerOptions{
		Name: "grpc", Optional: !n.config.TLS.Required(), ClientAuth: max(callers(n.config.TLS.ClientAuth), tls.VerifyClientCertIfGiven),
		Metrics: n.tls.metrics, Logger: n.log,
	}))}
}

// memberCredentials returns the credentials of a connection to a member. While TLS is
// optional, members without it are asked in plaintext.
func (n *Node) memberCredentials(member string, takesTLS bool) credentials.TransportCredentials {
	if n.tls.files == nil || !takesTLS && !n.config.TLS.Required() {
		return insecure.NewCredentials()
	}
	return n.tls.files.MemberCredentials(n.tls.members, member)
}

var (
	errMemberPlaintext   = errors.New("members must use TLS here: set --tls required, or optional while the cluster is moved")
	errMemberCertificate = errors.New("a member must show a certificate: set --tls-cert-file and --tls-key-file")
)

// certify returns an error if the connection of a stream has no certificate for a member.
// While TLS is optional, plaintext needs none.
func (n *Node) certify(ctx context.Context, member string) error {
	if n.tls.files == nil {
		return nil
	}
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return errMemberPlaintext // impossible: gRPC sets it
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	switch {
	case !ok && n.config.TLS.Required():
		return errMemberPlaintext
	case !ok:
		return nil
	case len(info.State.VerifiedChains) == 0:
		return errMemberCertificate
	}
	return n.tls.members.Check(info.State.PeerCertificates[0], member)
}

// vouch returns the check that a boot in gossip is who it claims to be, nil if members need
// no certificates.
func (n *Node) vouch() func(context.Context, cluster.Member) error {
	if !n.config.TLS.Required() {
		return nil
	}
	return func(ctx context.Context, m cluster.Member) error {
		if !m.GRPC.IsValid() {
			return errors.New("it announces no gRPC port, so that its certificate cannot be seen")
		}
		return n.replication.Vouch(ctx, continuity.ID{Name: m.Name, Boot: runNumber(m.Boot)}, replication.Address{GRPC: m.GRPC.String(), TLS: m.TLS})
	}
}

// ownClient returns the options of a client of this node in this process. It shows the
// node's certificate, and takes every member for what it is.
func (n *Node) ownClient() client.Options {
	o := client.Options{Addrs: []string{dialable(n.grpcListener.Addr())}, Insecure: n.config.Insecure}
	if n.config.TLS.Required() {
		o.Insecure, o.Credentials = false, n.tls.files.MemberCredentials(n.tls.members, "")
	}
	return o
}

// TLS reports whether listeners take TLS.
func (n *Node) TLS() bool { return n.tls.files != nil }

// TLSStatus is the TLS of a node.
type TLSStatus struct {
	Mode       string            `json:"mode"`
	ClientAuth string            `json:"client_auth"`
	PeerName   string            `json:"peer_name"`
	Files      []tlsfiles.Status `json:"files"`
}

// tlsStatus returns nil if there is no TLS.
func (n *Node) tlsStatus() *TLSStatus {
	stores := n.tls.stores()
	if len(stores) == 0 {
		return nil
	}
	s := &TLSStatus{Mode: n.config.TLS.Mode, ClientAuth: n.config.TLS.ClientAuth, PeerName: n.config.TLSPeerName}
	for _, store := range stores {
		s.Files = append(s.Files, store.Status())
	}
	return s
}
