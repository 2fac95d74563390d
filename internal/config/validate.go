// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/nearest"
)

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Validate reports every setting that cannot be used. Nothing may listen
// beyond loopback unless Insecure says so, and a cluster cannot be joined.
func (c *Config) Validate() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, fmt.Errorf(key+": "+format, args...))
	}
	if !validName.MatchString(c.Name) {
		bad("name", "must be 1 to 63 letters, digits, dots, dashes or underscores, got %q", c.Name)
	}
	for _, listen := range []struct{ key, address string }{{"http", c.HTTP}, {"grpc", c.GRPC}, {"gossip", c.Gossip}} {
		host, err := splitAddress(listen.address)
		switch {
		case err != nil:
			bad(listen.key, "%w", err)
		case !c.Insecure && !isLoopback(host):
			bad(listen.key, "%s is reachable from other machines and this version has no credentials; use a loopback address, or allow it with insecure", listen.address)
		}
	}
	if c.HTTP == c.GRPC && !strings.HasSuffix(c.HTTP, ":0") {
		bad("grpc", "must differ from http, got %s twice", c.GRPC)
	}
	if c.Advertise != "" {
		if host, err := splitAddress(c.Advertise); err != nil {
			bad("advertise", "%w", err)
		} else if host == "" {
			bad("advertise", "must name a host that others can dial, got %q", c.Advertise)
		}
	}
	if len(c.Join) > 0 {
		bad("join", "clustering is not in this version: a node runs alone and would not share limits with %s", strings.Join(c.Join, ", "))
	}
	for _, n := range []struct {
		key   string
		value int
	}{{"max_keys", c.MaxKeys}, {"max_keys_per_root", c.MaxKeysPerRoot}, {"max_ids", c.MaxIDs}} {
		if n.value < 1 {
			bad(n.key, "must be at least 1, got %d", n.value)
		}
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"snapshot_every", c.SnapshotEvery}, {"drain_delay", c.DrainDelay}, {"shutdown_timeout", c.ShutdownTimeout}} {
		if d.value < 0 {
			bad(d.key, "must not be negative, got %s", d.value)
		}
	}
	oneOf := func(key, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			bad(key, "must be %s, got %q%s", strings.Join(allowed, ", "), value, didYouMean(nearest.Word(value, allowed)))
		}
	}
	oneOf("log_level", c.LogLevel, "debug", "info", "warn", "error")
	oneOf("log_format", c.LogFormat, "auto", "json", "text")
	return errors.Join(problems...)
}

// splitAddress checks host:port and returns the host.
func splitAddress(address string) (host string, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("must be host:port, got %q", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("port must be between 0 and 65535, got %q", address)
	}
	return host, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
