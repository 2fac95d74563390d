// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
)

// caVariable names the file with the CA of the collector.
const caVariable = "OTEL_EXPORTER_OTLP_CERTIFICATE"

// checkFiles returns an error if files that the exporter reads for TLS cannot be used. The
// exporter itself would go on without them.
func checkFiles() error {
	value := func(name string) string { return strings.TrimSpace(os.Getenv(name)) }
	for _, name := range []string{caVariable, "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"} {
		path := value(name)
		if path == "" {
			continue
		}
		text, err := os.ReadFile(path)
		if err == nil && !x509.NewCertPool().AppendCertsFromPEM(text) {
			err = fmt.Errorf("%s has no certificate in PEM", path)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_CLIENT_", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_"} {
		cert, key := value(prefix+"CERTIFICATE"), value(prefix+"KEY")
		if cert == "" && key == "" {
			continue
		}
		if cert == "" || key == "" {
			return fmt.Errorf("%sCERTIFICATE and %[1]sKEY must both be set or both be empty, got %q and %q", prefix, cert, key)
		}
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			return fmt.Errorf("%[1]sCERTIFICATE %[2]s and %[1]sKEY %[3]s: %[4]w", prefix, cert, key, err)
		}
	}
	return nil
}

// explained adds what to do to an error of sending spans.
func explained(err error) error {
	message := err.Error()
	for _, known := range []struct{ text, hint string }{
		{"signed by unknown authority", "set " + caVariable + " to the file of the CA that signed the collector's certificate"},
		{"does not look like a TLS handshake", "the collector does not use TLS: begin --otlp with grpc:// or http://"},
		{"server gave HTTP response to HTTPS client", "the collector does not use TLS: begin --otlp with http://"},
		{"certificate required", "set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY: the collector requires a client certificate"},
	} {
		if strings.Contains(message, known.text) {
			return fmt.Errorf("%w; %s", err, known.hint)
		}
	}
	return err
}
