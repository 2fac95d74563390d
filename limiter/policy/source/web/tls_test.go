// SPDX-License-Identifier: Apache-2.0

package web

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority makes certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	der  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	return &authority{key, cert, der}
}

// write writes the certificate of the authority to a file.
func (a *authority) write(t testing.TB, path string) {
	t.Helper()
	check(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.der}), 0o644))
}

// issue returns the certificate and the key of somebody, in PEM.
func (a *authority) issue(t testing.TB, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &private.PublicKey, a.key)
	check(t, err)
	text, err := x509.MarshalECPrivateKey(private)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: text})
}

// TestMutualTLS: the files verify the server and the client, and are read again.
func TestMutualTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		fmt.Fprint(w, valid)
	}))
	cert, key := ca.issue(t, "server")
	pair, err := tls.X509KeyPair(cert, key)
	check(t, err)
	clients := x509.NewCertPool()
	clients.AddCert(ca.cert)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)

	dir := t.TempDir()
	files := TLSFiles{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	put := func(authority *authority, client *authority) {
		authority.write(t, files.CA)
		cert, key := client.issue(t, "client")
		check(t, os.WriteFile(files.Cert, cert, 0o644))
		check(t, os.WriteFile(files.Key, key, 0o600))
	}
	f := feedOf(t, s.URL, Options{Files: files})
	load := func() error {
		_, err := f.Load(t.Context(), true)
		return err
	}
	if err := load(); err == nil || !strings.Contains(err.Error(), "policy_ca_file") {
		t.Errorf("without files: %v", err)
	}
	put(other, ca)
	if err := load(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with another CA: %v", err)
	}
	put(ca, other)
	if err := load(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with a client certificate of another CA: %v", err)
	}
	put(ca, ca)
	if err := load(); err != nil {
		t.Errorf("with the right files: %v", err)
	}
	put(ca, other)
	if err := load(); err == nil {
		t.Error("a replaced client certificate is not used")
	}
	check(t, os.WriteFile(files.CA, []byte("no PEM"), 0o644))
	if err := load(); err == nil || !strings.Contains(err.Error(), "has no PEM certificate") {
		t.Errorf("with a bad CA file: %v", err)
	}
	if _, _, err := (TLSFiles{Cert: files.Cert}).read(); err == nil || !strings.Contains(err.Error(), "belong together") {
		t.Errorf("without a key: %v", err)
	}
	noClient := feedOf(t, s.URL, Options{Files: TLSFiles{CA: files.CA}})
	ca.write(t, files.CA)
	if _, err := noClient.Load(t.Context(), true); err == nil {
		t.Error("without a client certificate: no error")
	}
}
