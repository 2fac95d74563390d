// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"regexp"
)

// MaxName is the maximum length of the name of a member, in bytes.
const MaxName = 57

var (
	validName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,56}$`)
	validCluster = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
)

// Validate reports every setting that cannot be used. Unless Insecure is set, nothing
// may be reachable from other machines without credentials.
func (c *Config) Validate() error {
	var p problems
	if !validName.MatchString(c.Name) {
		p.add("name", "must be 1 to %d letters, digits, dots, dashes or underscores, got %q", MaxName, c.Name)
	}
	c.validateAddresses(&p)
	c.validateCluster(&p)
	c.validateEnvoy(&p)
	c.PolicySource.validate(c.Policy, &p)
	c.validateTLS(&p)
	p.atLeastOne("max_keys", c.MaxKeys)
	if c.MaxKeysPerRoot < 0 {
		p.add("max_keys_per_root", "must not be negative, got %d", c.MaxKeysPerRoot)
	}
	p.atLeastOne("max_ids", c.MaxIDs)
	p.atLeastOne("max_connections", c.MaxConnections)
	p.notNegative("snapshot_every", c.SnapshotEvery)
	p.notNegative("drain_delay", c.DrainDelay)
	p.notNegative("shutdown_timeout", c.ShutdownTimeout)
	p.notNegative("join_timeout", c.JoinTimeout)
	c.validateUsageLog(&p)
	c.Tracing.validate(&p)
	p.log(c.LogLevel, c.LogFormat)
	if c.ProxyListen != "" {
		c.Proxy.validate("proxy_", &p)
		c.Proxy.needsAPIKeys(c.Policy, &p)
	}
	return errors.Join(p...)
}

// exposed begins messages about an address that is reachable without credentials.
const exposed = "%s is reachable from other machines and "

// validateAddresses checks the addresses to listen on.
func (c *Config) validateAddresses(p *problems) {
	listeners := []struct{ key, address string }{{"http", c.HTTP}, {"grpc", c.GRPC}, {"gossip", c.Gossip}}
	if c.ProxyListen != "" {
		listeners = append(listeners, struct{ key, address string }{"proxy_listen", c.ProxyListen})
	}
	if c.RESP != "" {
		listeners = append(listeners, struct{ key, address string }{"resp", c.RESP})
		c.distinctFromNode(p, "resp", c.RESP)
		p.distinct("resp", c.RESP, "envoy_listen", c.EnvoyListen)
		p.distinct("resp", c.RESP, "envoy_http", c.EnvoyHTTP)
	}
	for _, listen := range listeners {
		host, err := splitAddress(listen.address)
		switch {
		case err != nil:
			p.add(listen.key, "%w", err)
		case c.Insecure || isLoopback(host):
		case listen.key == "proxy_listen" && c.proxyHasCredentials(), listen.key != "gossip" && listen.key != "proxy_listen" && c.callersHaveCredentials():
		case listen.key == "proxy_listen":
			p.add(listen.key, exposed+"callers need no credentials there; use a loopback address, --tls required with another identity than a header, or allow it with --insecure", listen.address)
		case listen.key != "gossip":
			p.add(listen.key, exposed+"callers need no credentials; use a loopback address, list who may call with --auth, use --tls required with --tls-client-auth require, or allow it with --insecure", listen.address)
		case c.ClusterKeyFile == "":
			p.add(listen.key, exposed+"gossip is not encrypted; set --cluster-key-file, or allow it with --insecure", listen.address)
		}
	}
	p.distinct("grpc", c.GRPC, "http", c.HTTP)
	p.distinct("gossip", c.Gossip, "http", c.HTTP)
	p.distinct("gossip", c.Gossip, "grpc", c.GRPC)
	if c.Advertise != "" {
		if _, _, err := SplitAdvertise(c.Advertise); err != nil {
			p.add("advertise", "%w", err)
		}
	}
}

// validateCluster rejects settings with which a cluster could not form. Its nodes
// would decide on their own, and each would allow the whole limit.
func (c *Config) validateCluster(p *problems) {
	if !validCluster.MatchString(c.Cluster) {
		p.add("cluster", "must be 1 to 64 letters, digits, dots, dashes or underscores, got %q", c.Cluster)
	}
	if c.Auth != "" && len(c.Join) > 0 && c.ClusterKeyFile == "" && !c.TLS.Required() {
		p.add("cluster_key_file", "must be set, or --tls required: with --auth, members prove who they are by the cluster key or by certificates")
	}
	if c.ForwardTimeout <= 0 {
		p.add("forward_timeout", "must be more than 0, got %s", c.ForwardTimeout)
	}
	gossip, err := splitAddress(c.Gossip)
	if err != nil {
		return // validateAddresses reports it
	}
	for _, seed := range c.Join {
		host, err := seedHost(seed)
		switch {
		case err != nil:
			p.add("join", "%w", err)
		case isLoopback(gossip) && !isLoopback(host):
			p.add("gossip", "%s cannot reach %s of --join; listen on an address that other machines can reach, such as 0.0.0.0:6472", c.Gossip, seed)
		}
	}
	if host, err := splitAddress(c.GRPC); err == nil && isLoopback(host) && !isLoopback(gossip) {
		p.add("grpc", "%s is not reachable from other machines, but --gossip %s is; listen on the same host", c.GRPC, c.Gossip)
	}
}
