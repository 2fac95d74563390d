// SPDX-License-Identifier: Apache-2.0

// Package tlserror says what to do about errors of TLS.
package tlserror

import "strings"

// remedies say what to do about an error of TLS, found by a part of its text, since the
// other side of a connection only sends a number.
var remedies = []struct{ text, hint string }{
	{"certificate signed by unknown authority", "the CA file must have the CA that signed the certificate of the other side"},
	{"unknown certificate authority", "the other side does not know the CA of this side's certificate: use a certificate of its CA, or add the CA to its CA file"},
	{"certificate required", "the other side requires a certificate: give one, with its key"},
	{"didn't provide a certificate", "the other side must give a certificate and its key"},
	{"expired certificate", "this side's certificate has expired: issue a new one"},
	{"has expired", "issue a new certificate, or check the clocks"},
	{"bad certificate", "the other side does not accept this side's certificate: its log says why"},
	{"x509: certificate is", "the certificate must have the name that is called, or the name must be given"},
	{"x509: cannot validate", "the certificate must have the address that is called, or a name must be given"},
	{"incompatible key usage", "the certificate must be for servers and clients alike"},
	{"does not look like a TLS handshake", "the other side does not use TLS"},
	{"HTTP request to an HTTPS server", "use https://"},
	{"error reading server preface", "the other side may use TLS"},
	{"protocol version not supported", "both sides must have TLS 1.2 or later"},
}

// Remedy returns what to do about an error of TLS, or "" if it is none that is known.
func Remedy(err error) string {
	if err == nil {
		return ""
	}
	return RemedyOf(err.Error())
}

// RemedyOf is [Remedy] of the text of an error.
func RemedyOf(message string) string {
	for _, r := range remedies {
		if strings.Contains(message, r.text) {
			return r.hint
		}
	}
	return ""
}
