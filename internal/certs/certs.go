// SPDX-License-Identifier: Apache-2.0

// Package certs makes a certificate authority and certificates for a first cluster. Keys
// are ECDSA P-256, and files are in PEM.
package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

const (
	// CALifetime is the default lifetime of an authority.
	CALifetime = 10 * 365 * 24 * time.Hour
	// Lifetime is the default lifetime of a certificate.
	Lifetime = 365 * 24 * time.Hour
	// skew is how much the clocks of machines may differ.
	skew = 5 * time.Minute
)

// A Pair is a certificate and its private key, in PEM.
type Pair struct{ Cert, Key []byte }

// Request is what a certificate is to be for.
type Request struct {
	Name string // common name
	DNS  []string
	IPs  []net.IP
	URIs []*url.URL
	// Client: for callers only. Otherwise for servers and callers alike, as members are.
	Client             bool
	NotBefore, Expires time.Time
}

// An Authority issues certificates.
type Authority struct {
	Pair
	cert *x509.Certificate
	key  crypto.Signer
}

// New makes an authority that expires at a time.
func New(name string, now, expires time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		// The unit makes the subject another one than that of any certificate that it issues:
		// OpenSSL takes a certificate whose issuer has its own subject for self-signed.
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name, OrganizationalUnit: []string{"authority"}}, NotBefore: now.Add(-skew), NotAfter: expires,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	pair, cert, err := sign(template, template, key, key)
	if err != nil {
		return nil, err
	}
	return &Authority{pair, cert, key}, nil
}

// Load reads an authority from files.
func Load(certFile, keyFile string) (*Authority, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are not a certificate and its key: %w", certFile, keyFile, err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("%s is not the certificate of an authority", certFile)
	}
	return &Authority{Pair{cert, key}, pair.Leaf, signer}, nil
}

// Expires returns when the authority expires. No certificate can outlive it.
func (a *Authority) Expires() time.Time { return a.cert.NotAfter }

// Issue makes a certificate.
func (a *Authority) Issue(r Request) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if !r.Client {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	expires := r.Expires
	if expires.After(a.cert.NotAfter) {
		expires = a.cert.NotAfter
	}
	pair, _, err := sign(&x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: r.Name}, NotBefore: r.NotBefore.Add(-skew), NotAfter: expires,
		DNSNames: r.DNS, IPAddresses: r.IPs, URIs: r.URIs, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage, BasicConstraintsValid: true,
	}, a.cert, key, a.key)
	return pair, err
}

// ClientURI is the URI in the certificates of callers. They have no DNS name, so that none
// is taken for a member.
func ClientURI(name string) *url.URL {
	return &url.URL{Scheme: "bucketring", Host: "client", Path: "/" + name}
}

func sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey, signer crypto.Signer) (Pair, *x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return Pair{}, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return Pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}, cert, err
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	return n.Add(n, big.NewInt(1))
}

// Paths returns where a pair of a name is in a directory.
func Paths(dir, name string) (cert, key string) {
	return filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
}

// Write writes a pair into a directory, which it makes if needed: the certificate for all
// to read, the key for the owner only. It never replaces a file.
func (p Pair) Write(dir, name string) (cert, key string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	cert, key = Paths(dir, name)
	for _, path := range []string{cert, key} {
		if _, err := os.Lstat(path); err == nil {
			return "", "", fmt.Errorf("%s exists already: %w", path, os.ErrExist)
		}
	}
	if err := writeNew(key, p.Key, 0o600); err != nil {
		return "", "", err
	}
	if err := writeNew(cert, p.Cert, 0o644); err != nil {
		return "", "", err
	}
	return cert, key, nil
}

func writeNew(path string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
