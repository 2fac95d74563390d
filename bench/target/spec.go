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

// ErrPlaintext says why a target is not opened that is on another machine.
var ErrPlaintext = errors.New("set TLS, or Insecure for plaintext")

// An addr is one address of a spec.
type addr struct {
	hostPort string
	local    bool // does not leave this machine
	problem  error
}

// address reads host or host:port, and gives it the usual port if it has none.
func address(kind, text, port string) addr {
	host := text
	if h, p, err := net.SplitHostPort(text); err == nil {
		host, port = h, p
	} else if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		host = text[1 : len(text)-1]
	}
	ip, notIP := netip.ParseAddr(host)
	number, err := strconv.Atoi(port)
	switch {
	case strings.Contains(text, "@"):
		return addr{problem: fmt.Errorf("must be %s:HOST:PORT, without a user or a password", kind)}
	case text == "":
		return addr{problem: fmt.Errorf("has no address: %s:HOST:PORT is wanted", kind)}
	case strings.Contains(text, ","):
		return addr{problem: fmt.Errorf("has one address, got %q; only client: has several", text)}
	case host == "" || strings.ContainsAny(host, "/ @?#") || strings.Contains(host, ":") && notIP != nil:
		return addr{problem: fmt.Errorf("must be %s:HOST:PORT, got address %q", kind, text)}
	case err != nil || number < 1 || number > 65535:
		return addr{problem: fmt.Errorf("port must be a number from 1 to 65535, got %q", port)}
	}
	return addr{
		hostPort: net.JoinHostPort(host, port),
		local:    host == "localhost" || notIP == nil && ip.Unmap().IsLoopback(),
	}
}

// only returns the one address of a spec, which must not leave the machine in the
// clear.
func only(kind, text, port string, o Options) (string, error) {
	a := address(kind, text, port)
	if a.problem != nil {
		return "", a.problem
	}
	if !a.local && o.TLS == nil && !o.Insecure {
		return "", fmt.Errorf("%s is not a loopback address: %w", a.hostPort, ErrPlaintext)
	}
	return a.hostPort, nil
}

// redacted is a spec without the user and the password.
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
