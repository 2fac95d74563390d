// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/rand"
	"sync"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/tokenfile"
	"github.com/bucketring/bucketring/rpc/client"
)

// openAuth loads who may call, if it is configured.
func (n *Node) openAuth() (err error) {
	if n.config.Auth == "" {
		return nil
	}
	n.access, err = auth.New(auth.Options{
		Path: n.config.Auth, NodeKeys: n.nodeKeys, Logger: n.log, Registry: n.registry,
		OnRefused:  func(a *auth.Attempt) { n.admin.Refused(a) },
		PeersProve: func() bool { return len(n.keys.current()) > 0 || n.config.TLS.Required() }, // by the handshake, or by certificates
	})
	return err
}

// nodeKeys returns the keys of the tokens of members, the one to use first. Without a
// cluster key there are no other members, and the process has a key of its own.
func (n *Node) nodeKeys() [][]byte {
	if keys := n.keys.current(); len(keys) > 0 {
		return keys
	}
	return ownKey()
}

var ownKey = sync.OnceValue(func() [][]byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return [][]byte{key}
})

// asCaller adds the credentials by which this node calls itself and other members as callers
// do. Without TLS they do not leave the machine, and without a cluster key others do not know
// them: then this node forwards the calls, as a member.
func (n *Node) asCaller(o *client.Options) {
	if n.access == nil {
		return
	}
	o.DialOptions = append(o.DialOptions, grpc.WithPerRPCCredentials(tokenfile.Func(func() (string, error) { return auth.NodeToken(n.nodeKeys()[0]), nil })))
	if !n.config.TLS.Required() {
		o.DisableOwnerRouting, o.Insecure = !o.Insecure, true // it may listen on other addresses of the machine
	}
	if len(n.keys.current()) == 0 {
		o.DisableOwnerRouting = true
	}
}

// runAuth keeps the callers up to date until ctx is done.
func (n *Node) runAuth(ctx context.Context) error {
	if n.access != nil {
		n.access.Run(ctx)
	}
	return nil
}
