// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/bucketring/bucketring/internal/share"
)

// GRPC decides about a call or a stream before anything of it is read. It returns a context
// for [Check], which has the grant, or why there is none.
func (a *Authority) GRPC(ctx context.Context, method string, header metadata.MD) context.Context {
	if a == nil {
		return ctx
	}
	g, err := a.grpc(ctx, method, header)
	if err != nil {
		return context.WithValue(ctx, grantKey{}, err)
	}
	return context.WithValue(ctx, grantKey{}, g)
}

func (a *Authority) grpc(ctx context.Context, method string, header metadata.MD) (*Grant, *Error) {
	r := grpcRule(method)
	if r.open {
		return open, nil
	}
	c := credentials{}
	p, known := peer.FromContext(ctx)
	if known {
		c.address = share.Address(p.Addr)
	}
	if r.peer {
		if !a.options.PeersProve() {
			a.failures.add(PeerOff)
			return nil, unauthenticated("this node has --auth and no cluster key, by which members prove who they are: set --cluster-key-file for all members, or --tls required")
		}
		return open, nil // the handshake needs the key
	}
	if c.token, c.wrong = bearer(header["authorization"]); c.token == "" && known {
		c.tls = tlsState(p.AuthInfo)
	}
	g, err := a.authenticate(c)
	if err == nil {
		err = g.allows(r, strings.TrimPrefix(method, "/"))
	}
	if err != nil {
		remote := ""
		if known && p.Addr != nil {
			remote = p.Addr.String()
		}
		err.attempt = attempted(method, g, remote, c.address, err) // whoever calls Check may wait, unlike a connection
		return nil, err
	}
	return g, nil
}

// tlsState returns the state of a connection, nil without TLS.
func tlsState(info grpccredentials.AuthInfo) *tls.ConnectionState {
	if t, ok := info.(grpccredentials.TLSInfo); ok {
		return &t.State
	}
	return nil
}

// Check returns why a call or a stream is not let in, or nil. The context must be one that
// GRPC has returned; otherwise it is not let in. It allocates nothing if it returns nil.
func (a *Authority) Check(ctx context.Context) error {
	if a == nil {
		return nil
	}
	switch v := ctx.Value(grantKey{}).(type) {
	case *Grant:
		return nil
	case *Error:
		a.report(v.attempt)
		return v
	}
	return unauthenticated("nobody has checked the credentials of this call")
}

// HTTP decides about a request. It returns a context that has the grant. The error is an
// [*Error].
func (a *Authority) HTTP(r *http.Request) (context.Context, error) {
	ctx := r.Context()
	if a == nil {
		return ctx, nil
	}
	path := r.URL.Path
	needs := httpRule(path)
	if needs.open {
		return context.WithValue(ctx, grantKey{}, open), nil
	}
	c := credentials{tls: r.TLS}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.address = share.Of(from.Addr())
	}
	c.token, c.wrong = bearer(r.Header["Authorization"])
	if _, password, ok := r.BasicAuth(); ok && takesPassword(r) {
		c.token, c.wrong = password, password == ""
	}
	g, err := a.authenticate(c)
	if err == nil {
		err = g.allows(needs, path)
	}
	if err != nil {
		a.report(attempted(path, g, r.RemoteAddr, c.address, err))
		if err.Challenges != nil && isPage(path) {
			err.Challenges = append(slices.Clip(err.Challenges), passwordChallenge)
		}
		return nil, err
	}
	return context.WithValue(ctx, grantKey{}, g), nil
}

// isPage reports whether people look at a path in a browser, which asks for a password: the
// token, with any name.
func isPage(path string) bool { return path == "/status" }

// takesPassword reports whether a browser's password is taken for the token: for the page, and
// for the limits that it looks up. Browsers send it with requests that other sites cause, too,
// which must change nothing.
func takesPassword(r *http.Request) bool {
	return isPage(r.URL.Path) || r.Method == http.MethodGet && r.URL.Path == "/v1/limits"
}

// bearer returns the token of Authorization headers, "" if there is none.
func bearer(headers []string) (token string, wrong bool) {
	switch len(headers) {
	case 0:
		return "", false
	case 1:
	default:
		return "", true
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	token = strings.TrimSpace(token)
	return token, !strings.EqualFold(scheme, "Bearer") || token == ""
}
