// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/http"
	"testing"
)

// The HTTP API speaks HTTP/2 without TLS to clients that begin with it, and counts their
// requests.
func TestHTTP2WithoutTLS(t *testing.T) {
	r := start(t, nil)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport}).Get("http://" + r.HTTPAddr() + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.ProtoMajor != 2 || answer.StatusCode != http.StatusOK {
		t.Errorf("answer = %s %s, want HTTP/2 and 200", answer.Proto, answer.Status)
	}
}
