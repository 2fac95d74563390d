// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"crypto/tls"
	"net"

	"github.com/bucketring/bucketring/internal/share"
)

// Connect returns the session of a connection that is neither HTTP nor gRPC, whose calls ask
// the grant of the session for each key. A token decides if there is one, and else the client
// certificate of state, which may be nil. The caller must have the scope call or read. The
// session must be closed. It is nil without auth. The error is an [*Error].
func (a *Authority) Connect(token string, state *tls.ConnectionState, remote net.Addr) (*Session, error) {
	if a == nil {
		return nil, nil
	}
	g, err := a.authenticate(credentials{token: token, tls: state, address: share.Address(remote)})
	if err == nil {
		err = g.allows(lookUp, "this connection")
	}
	if err != nil {
		return nil, err
	}
	return a.open(g, lookUp, connection), nil
}

// connection is in place of the method of a session that Connect has opened.
const connection = "connection"

// Needed reports whether callers have to show who they are.
func (a *Authority) Needed() bool { return a != nil }
