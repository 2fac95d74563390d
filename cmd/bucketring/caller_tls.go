// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/internal/tlserror"
	"github.com/bucketring/bucketring/internal/tlsfiles"
)

// callerTLS is the TLS of a command that calls a node. The environment variables are those
// of a node, so that commands in a node's container need no flags.
type callerTLS struct {
	streams             *streams
	on                  bool
	ca, cert, key, name string
	given               func(string) bool // whether a flag is given
	used                bool              // whether open has found that TLS is to be used
}

func newCallerTLS(s *streams, cmd *cobra.Command) *callerTLS {
	t := &callerTLS{streams: s, given: cmd.Flags().Changed}
	f := cmd.Flags()
	f.BoolVar(&t.on, "tls", false, "use TLS, as any of the next flags and https:// do (default: whether $BUCKETRING_TLS is required)")
	f.StringVar(&t.ca, "tls-ca-file", "", "file with the CA certificates that verify the node, in PEM (default $BUCKETRING_TLS_CA_FILE or those of the system)")
	f.StringVar(&t.cert, "tls-cert-file", "", "file with the client certificate, in PEM (default $BUCKETRING_TLS_CERT_FILE)")
	f.StringVar(&t.key, "tls-key-file", "", "file with the private key of --tls-cert-file, in PEM (default $BUCKETRING_TLS_KEY_FILE)")
	f.StringVar(&t.name, "tls-name", "", "name that the node's certificate must have (default $BUCKETRING_TLS_NAME or the host of the address)")
	return t
}

// open reads the files. It returns nil if TLS is not to be used.
func (t *callerTLS) open(cmd *cobra.Command, https bool) (*tlsfiles.Store, error) {
	env := func(name string) string { v, _ := t.streams.lookupEnv("BUCKETRING_TLS" + name); return v }
	on := t.on || https
	for _, flag := range []string{"tls-ca-file", "tls-cert-file", "tls-key-file", "tls-name"} {
		on = on || t.given(flag)
	}
	switch mode := env(""); {
	case on || t.given("tls"):
	case mode == "required" || mode == "true" || mode == "1":
		on = true
	case mode != "" && mode != "off" && mode != "optional" && mode != "false" && mode != "0":
		return nil, usageError(cmd, fmt.Errorf("$BUCKETRING_TLS: must be off, optional or required, got %q", mode), "")
	}
	if !on {
		return nil, nil
	}
	t.used = true
	t.name = cmp.Or(t.name, env("_NAME"))
	f := tlsfiles.Files{Cert: t.cert, Key: t.key, CA: cmp.Or(t.ca, env("_CA_FILE"))}
	if f.Cert == "" && f.Key == "" {
		f.Cert, f.Key = env("_CERT_FILE"), env("_KEY_FILE")
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, usageError(cmd, errors.New("--tls-cert-file, --tls-key-file: a certificate and its key belong together"), "")
	}
	store, err := tlsfiles.Open(tlsfiles.Options{Files: f, Settings: tlsfiles.Files{Cert: "--tls-cert-file", Key: "--tls-key-file", CA: "--tls-ca-file"}})
	if err != nil {
		return nil, usageError(cmd, err, "")
	}
	return store, nil
}

// dialOption returns the credentials for gRPC.
func (t *callerTLS) dialOption(cmd *cobra.Command) (grpc.DialOption, error) {
	store, err := t.open(cmd, false)
	switch {
	case err != nil:
		return nil, err
	case store == nil:
		return grpc.WithTransportCredentials(insecure.NewCredentials()), nil
	}
	return grpc.WithTransportCredentials(store.ServerCredentials(t.name)), nil
}

// httpNode is the HTTP API of a node.
type httpNode struct {
	target string // host:port
	base   string // of URLs
	client *http.Client
}

// usesTLS reports whether calls to the node use TLS.
func (n *httpNode) usesTLS() bool { return strings.HasPrefix(n.base, "https:") }

// httpNode returns the node at an address, which may begin with http:// or https://.
func (t *callerTLS) httpNode(cmd *cobra.Command, address string) (*httpNode, error) {
	address, https := strings.CutPrefix(address, "https://")
	if !https {
		address = strings.TrimPrefix(address, "http://")
	}
	target, err := dialAddress(strings.TrimSuffix(address, "/"))
	if err != nil {
		return nil, usageError(cmd, fmt.Errorf("--http: %w", err), "")
	}
	store, err := t.open(cmd, https)
	if err != nil {
		return nil, err
	}
	if store == nil {
		return &httpNode{target, "http://" + target, &http.Client{}}, nil
	}
	return &httpNode{target, "https://" + target, &http.Client{Transport: &http.Transport{TLSClientConfig: store.Client(t.name)}}}, nil
}

// cutOff are parts of the errors of a connection that the node has closed at once. It may do
// so before its reason is read: that a certificate is required, or that TLS is.
var cutOff = []string{"malformed HTTP response", "broken pipe", "connection reset by peer", "error reading server preface"}

const certificateHint = "--tls-cert-file FILE --tls-key-file FILE, if the node requires a client certificate"

// tlsHintOf returns what to do about an error of a connection to a node, by flags, or def.
// usedTLS is whether the caller has used TLS.
func tlsHintOf(err error, usedTLS bool, def string) string {
	if err == nil {
		return def
	}
	message := err.Error()
	isCutOff := errors.Is(err, io.EOF) || slices.ContainsFunc(cutOff, func(text string) bool { return strings.Contains(message, text) })
	if isCutOff && !usedTLS {
		return "--tls --tls-ca-file FILE, if the node uses TLS"
	}
	for _, known := range []struct{ text, hint string }{
		{"certificate required", certificateHint},
		{"signed by unknown authority", "--tls-ca-file FILE, with the CA certificate that signed the node's"},
		{"x509: certificate is", "--tls-name NAME, if the certificate has another name than the address"},
		{"x509: cannot validate", "--tls-name NAME, if the certificate has another name than the address"},
		{"does not look like a TLS handshake", "leave out --tls: the node does not use TLS"},
		{"server gave HTTP response to HTTPS client", "leave out --tls: the node does not use TLS"},
	} {
		if strings.Contains(message, known.text) {
			return known.hint
		}
	}
	if isCutOff && !strings.Contains(message, "remote error: tls:") {
		return certificateHint
	}
	if hint := tlserror.Remedy(err); hint != "" {
		return hint
	}
	return def
}
