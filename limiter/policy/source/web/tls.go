// SPDX-License-Identifier: Apache-2.0

package web

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// TLSFiles are files in PEM: the CA certificates that verify the server, if not those of
// the system, and the certificate and the key of the client, if it has one.
type TLSFiles struct{ CA, Cert, Key string }

// renewTransport makes a new transport if there is none, or if the files changed.
func (f *Feed) renewTransport() error {
	config, sum, err := f.options.Files.read()
	if err != nil {
		return err
	}
	if f.transport != nil && sum == f.files {
		return nil
	}
	if f.transport != nil {
		f.transport.CloseIdleConnections()
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	f.files = sum
	f.transport = &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: config,
		TLSHandshakeTimeout: 5 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConns: 2, IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true,
	}
	return nil
}

// read returns the configuration, and a hash of the files.
func (t TLSFiles) read() (c *tls.Config, sum [sha256.Size]byte, err error) {
	c = &tls.Config{MinVersion: tls.VersionTLS12}
	h := sha256.New()
	texts := map[string][]byte{}
	for _, file := range []struct{ setting, path string }{{"policy_ca_file", t.CA}, {"policy_cert_file", t.Cert}, {"policy_key_file", t.Key}} {
		if file.path == "" {
			continue
		}
		text, err := os.ReadFile(file.path)
		if err != nil {
			return nil, sum, fmt.Errorf("read %s: %w", file.setting, err)
		}
		texts[file.setting] = text
		fmt.Fprintf(h, "%s %d\n", file.setting, len(text))
		h.Write(text)
	}
	if t.CA != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(texts["policy_ca_file"]) {
			return nil, sum, fmt.Errorf("read policy_ca_file: %s has no PEM certificate", t.CA)
		}
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, sum, errors.New("policy_cert_file and policy_key_file belong together: set both")
	}
	if t.Cert != "" {
		pair, err := tls.X509KeyPair(texts["policy_cert_file"], texts["policy_key_file"])
		if err != nil {
			return nil, sum, fmt.Errorf("read policy_cert_file and policy_key_file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	h.Sum(sum[:0])
	return c, sum, nil
}
