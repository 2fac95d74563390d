// SPDX-License-Identifier: Apache-2.0

package target

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// ErrPlaintext is returned for an address that is not loopback, without TLS and without
// Options.Insecure.
var ErrPlaintext = errors.New("set TLS, or Insecure for plaintext")

// address is the parsed address of a spec.
type address struct {
	hostPort string
	loopback bool // on this machine
	err      error
}

// splitAddress parses host or host:port, and adds the default port if there is none.
func splitAddress(kind, text, port string) address {
	host := text
	if h, p, err := net.SplitHostPort(text); err == nil {
		host, port = h, p
	} else if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		host = text[1 : len(text)-1]
	}
	ip, notIP := netip.ParseAddr(host)
	portNumber, err := strconv.Atoi(port)
	switch {
	case strings.Contains(text, "@"):
		return address{err: fmt.Errorf("must be %s:HOST:PORT, without a user or a password", kind)}
	case text == "":
		return address{err: fmt.Errorf("must be %s:HOST:PORT, got no address", kind)}
	case strings.Contains(text, ","):
		return address{err: fmt.Errorf("must have one address, got %q; only client: takes several", text)}
	case host == "" || strings.ContainsAny(host, "/ @?#") || strings.Contains(host, ":") && notIP != nil:
		return address{err: fmt.Errorf("must be %s:HOST:PORT, got address %q", kind, text)}
	case err != nil || portNumber < 1 || portNumber > 65535:
		return address{err: fmt.Errorf("port: must be a number from 1 to 65535, got %q", port)}
	}
	return address{
		hostPort: net.JoinHostPort(host, port),
		loopback: host == "localhost" || notIP == nil && ip.Unmap().IsLoopback(),
	}
}

// parseAddress parses the address of a spec. It returns [ErrPlaintext] for a plaintext
// connection to another machine.
func parseAddress(kind, text, port string, o Options) (string, error) {
	a := splitAddress(kind, text, port)
	if a.err != nil {
		return "", a.err
	}
	if !a.loopback && o.TLS == nil && !o.Insecure {
		return "", fmt.Errorf("%s is not a loopback address: %w", a.hostPort, ErrPlaintext)
	}
	return a.hostPort, nil
}

// redacted returns a spec without user and password.
func redacted(spec string) string {
	at := strings.LastIndex(spec, "@")
	kind, _, found := strings.Cut(spec, ":")
	if at < 0 {
		return spec
	}
	if !found || len(kind) > at {
		return "…" + spec[at:]
	}
	return kind + "://…" + spec[at:]
}
