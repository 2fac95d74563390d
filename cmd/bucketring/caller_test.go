// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestHTTPAddress: who gives the HTTP address of a node to a command that uses gRPC is told so.
func TestHTTPAddress(t *testing.T) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.Protocols = &protocols
	s.Start()
	defer s.Close()
	address := strings.TrimPrefix(s.URL, "http://")
	for _, args := range [][]string{{"check", "acme"}, {"reserve", "acme"}, {"limits", "acme"}} {
		_, stderr, code := testRun(t, append(args, "--server", address)...)
		want := "error: " + address + " answers HTTP, but no gRPC\ntry: give the gRPC address of a node, whose port is 6471 by default\n"
		if stderr != want || code != 1 {
			t.Errorf("%s --server of HTTP = %d\n%swant 1\n%s", args[0], code, stderr, want)
		}
	}
}
