// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bucketring/bucketring/bench/suite"
	"github.com/bucketring/bucketring/bench/target"
)

// Flags that are about some targets only.
const (
	rlsDomain = "rls-domain"
	rlsEntry  = "rls-entry"
)

// tlsFlags say how targets are asked over TLS. Any of them turns it on.
type tlsFlags struct {
	on                  bool
	ca, cert, key, name string
}

func (t *tlsFlags) declare(f *pflag.FlagSet) {
	f.BoolVar(&t.on, "tls", false, "TLS to client:, grpc: and rls: targets; https:, rediss: and rediss-lua: have it anyway")
	f.StringVar(&t.ca, "tls-ca", "", "file with the certificates that sign those of servers (default: those of the system)")
	f.StringVar(&t.cert, "tls-cert", "", "file with the certificate that servers are shown")
	f.StringVar(&t.key, "tls-key", "", "file with the key of --tls-cert")
	f.StringVar(&t.name, "tls-name", "", "name that certificates of servers must have (default: the host that is asked)")
}

// given is the first flag that was set, "" if none was.
func (t *tlsFlags) given() string {
	switch {
	case t.ca != "":
		return "--tls-ca"
	case t.cert != "":
		return "--tls-cert"
	case t.key != "":
		return "--tls-key"
	case t.name != "":
		return "--tls-name"
	case t.on:
		return "--tls"
	}
	return ""
}

// config reads the files.
func (t *tlsFlags) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.name}
	if t.ca != "" {
		text, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, fmt.Errorf("--tls-ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--tls-ca: %s has no certificate in PEM form", t.ca)
		}
	}
	switch {
	case t.cert == "" && t.key == "":
		return c, nil
	case t.key == "":
		return nil, errors.New("--tls-cert: needs --tls-key, the file with its key")
	case t.cert == "":
		return nil, errors.New("--tls-key: needs --tls-cert, the file with its certificate")
	}
	pair, err := tls.LoadX509KeyPair(t.cert, t.key)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

// doors sees to it that flags about some kinds of targets have one to be about.
func (b *benchFlags) doors(cmd *cobra.Command) (err error) {
	o := &b.options
	specs := append([]string{o.Target}, o.Versus...)
	isRLS := func(spec string) bool { return strings.HasPrefix(spec, "rls:") }
	for _, flag := range []string{rlsDomain, rlsEntry} {
		if f := cmd.Flags().Lookup(flag); f.Changed && !slices.ContainsFunc(specs, isRLS) {
			return misused(cmd, fmt.Errorf("--%s: no target is of kind rls", flag), fmt.Sprintf("%s --target rls:HOST:8081 --%s %s", cmd.CommandPath(), flag, quoted(f.Value.String())))
		} else if f.Changed && f.Value.String() == "" {
			return misused(cmd, fmt.Errorf("--%s: must not be empty", flag), "")
		}
	}
	flag := b.tls.given()
	if flag == "" {
		return nil
	}
	if !o.UsesTLS() {
		return misused(cmd, fmt.Errorf("%s: no target of this run uses TLS", flag), noTLS(specs))
	}
	if o.Targets.Insecure && !slices.ContainsFunc(specs, func(spec string) bool { return spec != "" && !target.SupportsTLS(spec) }) {
		return misused(cmd, fmt.Errorf("--insecure: %s says that all targets use TLS", flag), "leave out one of them")
	}
	if o.Targets.TLS, err = b.tls.config(); err != nil {
		return misused(cmd, err, "")
	}
	return nil
}

// noTLS says how the first target that could use TLS would be written.
func noTLS(specs []string) string {
	for _, spec := range specs {
		for plain, secure := range map[string]string{"http://": "https://", "redis://": "rediss://", "redis-lua://": "rediss-lua://"} {
			if rest, ok := strings.CutPrefix(spec, plain); ok {
				return withoutPassword(secure + rest)
			}
		}
	}
	return "leave it out: the nodes of --local are asked on loopback, without TLS"
}

// notReady is the error of a target that does not answer, with the most likely
// reason.
func (t *tlsFlags) notReady(err error) error {
	text := err.Error()
	for _, known := range []struct{ says, try string }{
		{"signed by unknown authority", "--tls-ca FILE, with the certificate that the server's is signed by"},
		{"x509: certificate is", "--tls-name NAME, if the certificate has another name than the address"},
		{"x509: cannot validate", "--tls-name NAME, if the certificate has another name than the address"},
		{"certificate required", "--tls-cert FILE --tls-key FILE: the server wants a certificate"},
		{"bad certificate", "--tls-cert FILE --tls-key FILE that the server trusts"},
		{"does not look like a TLS handshake", "leave out --tls: the server does not speak it"},
		{"error reading server preface", "--tls, if the server wants it"},
		{"HTTP request to an HTTPS server", "https:// instead of http://"},
	} {
		if strings.Contains(text, known.says) {
			return failed(err, known.try)
		}
	}
	// A server that misses a certificate hangs up, and may be quicker than its word.
	if t.given() != "" && t.cert == "" && strings.Contains(text, "write: ") {
		return failed(err, "--tls-cert FILE --tls-key FILE, if the server wants a certificate")
	}
	return failed(err, "is it running? start it, for example with bucketring dev, or use --local 3")
}

// failed gives the error of a run a hint, if there is one.
func (b *benchFlags) failed(cmd *cobra.Command, err error) error {
	switch {
	case errors.Is(err, target.ErrPlaintext):
		return misused(cmd, err, "--tls, or --insecure for plaintext; rediss:// and https:// have TLS")
	case errors.Is(err, suite.ErrNotReady):
		return b.tls.notReady(err)
	}
	return err
}
