// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"
)

// TestTLSHints: what to do about a connection that is cut off depends on whether it had TLS.
func TestTLSHints(t *testing.T) {
	for _, tt := range []struct {
		text    string
		usedTLS bool
		want    string
	}{
		{"write: broken pipe", false, "--tls --tls-ca-file"},
		{"read: connection reset by peer", false, "--tls --tls-ca-file"},
		{"error reading server preface: EOF", false, "--tls --tls-ca-file"},
		{"write: broken pipe", true, "--tls-cert-file"},
		{"read: connection reset by peer", true, "--tls-cert-file"},
		{"error reading server preface: EOF", true, "--tls-cert-file"},
		{"error reading server preface: remote error: tls: certificate required", true, "--tls-cert-file"},
		{"error reading server preface: remote error: tls: unknown certificate authority", true, "the other side does not know the CA"},
		{"tls: failed to verify certificate: x509: certificate signed by unknown authority", true, "--tls-ca-file"},
		{"tls: first record does not look like a TLS handshake", true, "leave out --tls"},
		{"connect: connection refused", false, "start a node"},
	} {
		if got := tlsHintOf(errors.New(tt.text), tt.usedTLS, "start a node"); !strings.HasPrefix(got, tt.want) {
			t.Errorf("tlsHintOf(%q, TLS %t) = %q, want %q", tt.text, tt.usedTLS, got, tt.want)
		}
	}
}
