// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"
	"net/netip"
)

// forAdmins lets only those call a handler who may administer the node. With a list of
// callers, these are the callers with the scope admin, whom the handler of the whole API has
// admitted. Without one, they are processes on the same machine: a request that another
// server has passed on is not from this machine, nor is one for the name of some web site.
func (a *api) forAdmins(handle func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	if a.access != nil {
		return handle
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !from.Addr().Unmap().IsLoopback() || !isAddress(r.Host) || r.Header.Get("Forwarded") != "" || r.Header.Get("X-Forwarded-For") != "" {
			return &problem{
				status:  http.StatusForbidden,
				Code:    "forbidden",
				Message: r.URL.Path + " is for callers on the machine of the node, by its loopback address: run the command there, for example through ssh",
			}
		}
		return handle(w, r)
	}
}
