// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/nearest"
)

// MaxName is the length of the longest name of a member.
const MaxName = 57

var (
	validName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,56}$`)
	validCluster = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
)

// Validate reports every setting that cannot be used. Nothing may be reachable
// from other machines without credentials unless Insecure says so.
func (c *Config) Validate() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, fmt.Errorf(key+": "+format, args...))
	}
	if !validName.MatchString(c.Name) {
		bad("name", "must be 1 to %d letters, digits, dots, dashes or underscores, got %q", MaxName, c.Name)
	}
	c.validateAddresses(bad)
	c.validateCluster(bad)
	c.validateEnvoy(bad)
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
	}{{"snapshot_every", c.SnapshotEvery}, {"drain_delay", c.DrainDelay}, {"shutdown_timeout", c.ShutdownTimeout}, {"join_timeout", c.JoinTimeout}} {
		if d.value < 0 {
			bad(d.key, "must not be negative, got %s", d.value)
		}
	}
	validateLog(bad, c.LogLevel, c.LogFormat)
	if c.ProxyListen != "" {
		c.Proxy.validate("proxy_", bad)
	}
	oneOf(bad, "envoy_body", c.EnvoyBody, "none", "openai", "anthropic")
	return errors.Join(problems...)
}

// A complaint says that the setting with a key cannot be used.
type complaint = func(key, format string, args ...any)

func validateLog(bad complaint, level, format string) {
	oneOf(bad, "log_level", level, "debug", "info", "warn", "error")
	oneOf(bad, "log_format", format, "auto", "json", "text")
}

func oneOf(bad complaint, key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		bad(key, "must be %s, got %q%s", strings.Join(allowed, ", "), value, didYouMean(nearest.Word(value, allowed)))
	}
}

// validateAddresses looks at what is listened on.
func (c *Config) validateAddresses(bad func(key, format string, args ...any)) {
	const exposed = "%s is reachable from other machines and "
	listeners := []struct{ key, address string }{{"http", c.HTTP}, {"grpc", c.GRPC}, {"gossip", c.Gossip}}
	if c.ProxyListen != "" {
		listeners = append(listeners, struct{ key, address string }{"proxy_listen", c.ProxyListen})
	}
	for _, listen := range listeners {
		host, err := splitAddress(listen.address)
		switch {
		case err != nil:
			bad(listen.key, "%w", err)
		case c.Insecure || isLoopback(host):
		case listen.key != "gossip":
			bad(listen.key, exposed+"this version has no credentials; use a loopback address, or allow it with insecure", listen.address)
		case c.ClusterKeyFile == "":
			bad(listen.key, exposed+"gossip is not encrypted; set cluster_key_file, or allow it with insecure", listen.address)
		}
	}
	if c.HTTP == c.GRPC && !strings.HasSuffix(c.HTTP, ":0") {
		bad("grpc", "must differ from http, got %s twice", c.GRPC)
	}
	for _, other := range []struct{ key, address string }{{"http", c.HTTP}, {"grpc", c.GRPC}} {
		if c.Gossip == other.address && !strings.HasSuffix(c.Gossip, ":0") {
			bad("gossip", "must differ from %s, got %s twice", other.key, c.Gossip)
		}
	}
	if c.Advertise != "" {
		if _, _, err := SplitAdvertise(c.Advertise); err != nil {
			bad("advertise", "%w", err)
		}
	}
}

// validateCluster looks for clusters that would not come about: each node would
// then allow all that the policy does.
func (c *Config) validateCluster(bad func(key, format string, args ...any)) {
	if !validCluster.MatchString(c.Cluster) {
		bad("cluster", "must be 1 to 64 letters, digits, dots, dashes or underscores, got %q", c.Cluster)
	}
	if c.ForwardTimeout <= 0 {
		bad("forward_timeout", "must be more than 0, got %s", c.ForwardTimeout)
	}
	gossip, err := splitAddress(c.Gossip)
	if err != nil {
		return // said already
	}
	for _, seed := range c.Join {
		host, err := checkSeed(seed)
		switch {
		case err != nil:
			bad("join", "%w", err)
		case isLoopback(gossip) && !isLoopback(host):
			bad("gossip", "%s cannot reach %s, which join names; listen on an address that other machines reach, such as 0.0.0.0:6472", c.Gossip, seed)
		}
	}
	if host, err := splitAddress(c.GRPC); err == nil && isLoopback(host) && !isLoopback(gossip) {
		bad("grpc", "%s is not reachable from other machines, which gossip at %s would send there; listen on the same host", c.GRPC, c.Gossip)
	}
}
