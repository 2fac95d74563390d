// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"net/netip"

	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/auth"
)

// caller returns who calls, for the audit log, and an error unless they may administer this
// node. Callers whom the node's list of callers admitted have the scope admin, since their
// call came here. Without such a list, only callers on this machine may, by a loopback
// address or a Unix socket. The context is that of a gRPC call, or has its peer as that of
// one.
func caller(ctx context.Context) (who string, err error) {
	p, ok := grpcpeer.FromContext(ctx)
	if name := auth.From(ctx).Caller(); name != "" {
		if ok && p.Addr != nil {
			who = p.Addr.String()
		}
		return callerAt(name, who), nil
	}
	if !ok || p.Addr == nil {
		return "unknown", grpcstatus.Error(codes.PermissionDenied, "administration needs a loopback address, and the address of the caller is not known")
	}
	who = p.Addr.String()
	if p.Addr.Network() == "unix" {
		return "unix", nil
	}
	if at, err := netip.ParseAddrPort(who); err == nil && at.Addr().Unmap().IsLoopback() {
		return who, nil
	}
	return who, grpcstatus.Errorf(codes.PermissionDenied, "administration is for callers on the machine of the node, by a loopback address, and %s is none: run the command there", who)
}
