// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bucketring/bucketring/bench/suite"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/internal/tlsfiles"
)

// Flags for targets of kind rls.
const (
	rlsDomain = "rls-domain"
	rlsEntry  = "rls-entry"
)

// tlsFlags are the flags for TLS. Any of them enables TLS.
type tlsFlags struct {
	on                  bool
	ca, cert, key, name string
}

func (t *tlsFlags) declare(f *pflag.FlagSet) {
	f.BoolVar(&t.on, "tls", false, "use TLS to client:, grpc:, rls: and gubernator: targets; https:, rediss: and rediss-lua: always use it")
	f.StringVar(&t.ca, "tls-ca", "", "file with the CA certificates that verify servers, in PEM (default: those of the system)")
	f.StringVar(&t.cert, "tls-cert", "", "file with the client certificate, in PEM")
	f.StringVar(&t.key, "tls-key", "", "file with the private key of --tls-cert, in PEM")
	f.StringVar(&t.name, "tls-name", "", "server name to verify in certificates (default: the host of the target)")
}

// given returns the first flag that is set, or "".
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

// config loads the files.
func (t *tlsFlags) config() (*tls.Config, error) {
	switch {
	case t.cert != "" && t.key == "":
		return nil, errors.New("--tls-cert: needs --tls-key, the file with its private key")
	case t.cert == "" && t.key != "":
		return nil, errors.New("--tls-key: needs --tls-cert, the file with its certificate")
	}
	files, err := tlsfiles.Open(tlsfiles.Options{
		Files: tlsfiles.Files{Cert: t.cert, Key: t.key, CA: t.ca}, Settings: tlsfiles.Files{Cert: "--tls-cert", Key: "--tls-key", CA: "--tls-ca"},
	})
	if err != nil {
		return nil, err
	}
	return files.Client(t.name), nil
}

// checkTargetFlags rejects flags for kinds of targets that the run does not have, and
// loads the files of TLS.
func (b *benchFlags) checkTargetFlags(cmd *cobra.Command) (err error) {
	o := &b.options
	specs := append([]string{o.Target}, o.Versus...)
	isRLS := func(spec string) bool { return strings.HasPrefix(spec, "rls:") }
	for _, flag := range []string{rlsDomain, rlsEntry} {
		if f := cmd.Flags().Lookup(flag); f.Changed && !slices.ContainsFunc(specs, isRLS) {
			return usageError(cmd, fmt.Errorf("--%s: needs a target of kind rls", flag), fmt.Sprintf("%s --target rls:HOST:8081 --%s %s", cmd.CommandPath(), flag, shellQuote(f.Value.String())))
		} else if f.Changed && f.Value.String() == "" {
			return usageError(cmd, fmt.Errorf("--%s: must not be empty", flag), "")
		}
	}
	flag := b.tls.given()
	if flag == "" {
		return nil
	}
	if !o.UsesTLS() {
		return usageError(cmd, fmt.Errorf("%s: no target of this run uses TLS", flag), tlsHint(specs))
	}
	if o.Targets.Insecure && !slices.ContainsFunc(specs, func(spec string) bool { return spec != "" && !target.SupportsTLS(spec) }) {
		return usageError(cmd, fmt.Errorf("--insecure: with %s, all targets use TLS", flag), "leave out one of them")
	}
	if o.Targets.TLS, err = b.tls.config(); err != nil {
		return usageError(cmd, err, "")
	}
	return nil
}

// tlsHint returns the first target that could use TLS, written with TLS.
func tlsHint(specs []string) string {
	for _, spec := range specs {
		for plain, secure := range map[string]string{"http://": "https://", "redis://": "rediss://", "redis-lua://": "rediss-lua://"} {
			if rest, ok := strings.CutPrefix(spec, plain); ok {
				return withoutPassword(secure + rest)
			}
		}
	}
	return "leave it out: the nodes of --local are asked on loopback, without TLS"
}

// notReadyError returns the error of a target that does not answer, with the most
// likely remedy as the hint.
func (t *tlsFlags) notReadyError(err error) error {
	message := err.Error()
	for _, known := range []struct{ text, hint string }{
		{"signed by unknown authority", "--tls-ca FILE, with the CA certificate that signed the server's"},
		{"x509: certificate is", "--tls-name NAME, if the certificate has another name than the address"},
		{"x509: cannot validate", "--tls-name NAME, if the certificate has another name than the address"},
		{"certificate required", "--tls-cert FILE --tls-key FILE: the server requires a client certificate"},
		{"bad certificate", "--tls-cert FILE --tls-key FILE that the server trusts"},
		{"does not look like a TLS handshake", "leave out --tls: the server does not use TLS"},
		{"error reading server preface", "--tls, if the server uses TLS"},
		{"HTTP request to an HTTPS server", "https:// instead of http://"},
	} {
		if strings.Contains(message, known.text) {
			return errorWithHint(err, known.hint)
		}
	}
	// A server that requires a client certificate may close the connection before its
	// alert is read.
	if t.given() != "" && t.cert == "" && strings.Contains(message, "write: ") {
		return errorWithHint(err, "--tls-cert FILE --tls-key FILE, if the server requires a client certificate")
	}
	return errorWithHint(err, "start it, for example with: bucketring dev; or use --local 3")
}

// runError adds a hint to the error of a run, if it has one.
func (b *benchFlags) runError(cmd *cobra.Command, err error) error {
	switch {
	case errors.Is(err, target.ErrPlaintext):
		return usageError(cmd, err, "--tls, or --insecure for plaintext; rediss:// and https:// have TLS")
	case errors.Is(err, suite.ErrNotReady):
		return b.tls.notReadyError(err)
	}
	return err
}
