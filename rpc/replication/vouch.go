// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"errors"

	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/rpc/internal/handshake"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Vouch returns nil if the process at an address is a boot of a member: if its certificate
// is that member's, where connections have TLS, and it makes the handshake as that boot.
func (h *Host) Vouch(ctx context.Context, to continuity.ID, address Address) error {
	conn, err := h.newConn(to.Name, address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // an error means that it is closed
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stream, err := pb.NewPeerClient(conn).Control(ctx)
	if err == nil {
		_, err = h.handshake.AsCaller(stream, handshake.Member{Name: to.Name, Boot: to.Boot, Address: address.GRPC})
	}
	if err != nil {
		return errors.New(grpcstatus.Convert(err).Message())
	}
	return nil
}
