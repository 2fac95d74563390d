// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"
)

// TestSubjects: a certificate with the name of its authority has another subject than that.
// OpenSSL would take it for self-signed otherwise, and refuse it.
func TestSubjects(t *testing.T) {
	now := time.Now()
	a, err := New("proxy", now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := a.Issue(Request{Name: "proxy", DNS: []string{"proxy"}, NotBefore: now, Expires: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pair.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(cert.RawSubject, cert.RawIssuer) {
		t.Errorf("the subject %s is the issuer", cert.Subject)
	}
	if cert.Subject.CommonName != "proxy" || cert.Issuer.CommonName != "proxy" {
		t.Errorf("subject %s and issuer %s, want the names as given", cert.Subject, cert.Issuer)
	}
}
