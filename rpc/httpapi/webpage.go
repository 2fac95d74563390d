// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"net"
	"net/http"
	"net/netip"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/share"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/server"
)

// crossOrigin finds calls of pages of another origin, by the headers Sec-Fetch-Site and
// Origin, which browsers send and pages cannot change. GET and HEAD change nothing, and
// are never refused.
var crossOrigin = http.NewCrossOriginProtection()

// webPageProblem rejects a call that may change something and that a web page makes, for
// example to a node on the loopback address of whoever looks at the page. A browser can
// send JSON to any address as text/plain, without asking first.
//
// A page of the same origin may call, if the host is an address or localhost. Another
// name may be one that the owner of a foreign page lets lead to this node.
func webPageProblem(r *http.Request) *problem {
	switch err := crossOrigin.Check(r); {
	case err != nil, isUnsafe(r) && r.Header.Get("Origin") != "" && !isAddress(r.Host):
		return &problem{
			status:  http.StatusForbidden,
			Code:    "web_page",
			Message: "this API does not take calls of web pages of another origin, got one of " + text.Quote(r.Header.Get("Origin")),
			why:     server.WebPage,
		}
	}
	return nil
}

func isUnsafe(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	return true
}

// isAddress reports whether the host of a request is an IP address or localhost.
func isAddress(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if host == "localhost" {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// Protect returns a handler with the protection that [New]'s handler has: against web
// pages of another origin, and against large bodies, of which only so many bytes may be
// in progress. Access decides who may call; nil: everybody.
func Protect(next http.Handler, rejections *server.Rejections, access *auth.Authority) http.Handler {
	bodies := share.New(share.Limits{Total: maxBodies, PerAddress: maxBodiesPerAddress})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := webPageProblem(r); p != nil {
			rejections.Count(server.EnvoyInterface, p.why)
			http.Error(w, p.Message, p.status)
			return
		}
		ctx, err := access.HTTP(r)
		if refused, ok := errors.AsType[*auth.Error](err); ok {
			p := refusedProblem(w, refused)
			if p.retry > 0 {
				explain.SetRetryAfter(w.Header(), p.retry)
			}
			http.Error(w, p.Message, p.status)
			return
		}
		r = r.WithContext(ctx)
		size := r.ContentLength
		if size < 0 || size > maxBody {
			size = maxBody // the most that is read
		}
		if size > smallBody {
			from := remoteAddress(r)
			if why := bodies.Take(from, size); why != share.None {
				rejections.Count(server.EnvoyInterface, server.TooManyAtOnce)
				w.Header().Set("Retry-After", "1")
				w.Header().Set("Connection", "close") // the body is not read
				http.Error(w, tooManyBodies, http.StatusServiceUnavailable)
				return
			}
			defer bodies.Give(from, size)
		}
		next.ServeHTTP(w, r)
	})
}
