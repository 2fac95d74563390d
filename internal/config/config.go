// SPDX-License-Identifier: Apache-2.0

// Package config is the settings of a node. The fields of [Config] are the one
// place where a setting is declared: its YAML key, flag, environment variable,
// default and help all come from there.
//
// A flag wins over the environment, the environment over the file given with
// --config, and the file over the default. An unknown key is an error.
package config

import (
	"time"
)

// Config is everything a node can be told before it starts. What may change
// while it runs is in the policy.
type Config struct {
	Name      string   `key:"name" help:"name of this member, its own in the cluster and the same after a restart; empty means the host name"`
	HTTP      string   `key:"http" default:"127.0.0.1:6470" help:"address of the JSON API, health and metrics"`
	GRPC      string   `key:"grpc" default:"127.0.0.1:6471" help:"address of the gRPC API, where members reach each other, too"`
	Gossip    string   `key:"gossip" default:"127.0.0.1:6472" help:"address for cluster membership, with TCP and UDP"`
	Advertise string   `key:"advertise" help:"host or host:port at which other members reach this one: gossip at that port, HTTP and gRPC at their own; empty means the address of gossip"`
	Join      []string `key:"join" help:"members to join, separated by commas: host or host:port of their gossip, looked up anew each time; this node may be among them; empty means to start a cluster"`

	Cluster        string        `key:"cluster" default:"bucketring" help:"name of the cluster: nodes with another one are kept out"`
	ClusterKeyFile string        `key:"cluster_key_file" help:"file with a base64 key of 16, 24 or 32 bytes per line: the first one encrypts gossip and proves members to each other, all are accepted; read again on SIGHUP"`
	JoinTimeout    time.Duration `key:"join_timeout" default:"5s" help:"time to wait at start for one of the members to join; then the node goes on without, and keeps trying"`
	ForwardTimeout time.Duration `key:"forward_timeout" default:"1s" help:"time that the owner of a key gets to answer, before this node decides without it"`

	Policy        string        `key:"policy" help:"policy file or directory, watched; empty means the built-in policy"`
	Data          string        `key:"data" help:"directory that keeps usage across restarts; empty means memory only"`
	SnapshotEvery time.Duration `key:"snapshot_every" default:"10s" help:"time between snapshots into the data directory; 0 means only at shutdown"`

	EnvoyConfig   string `key:"envoy_config" help:"file with the rules of Envoy's rate limit service, as envoyproxy/ratelimit writes them, or directory of them, watched; this or envoy_xds turns the service on, at the address of grpc"`
	EnvoyXDS      string `key:"envoy_xds" help:"host:port of a control plane that serves the rules of Envoy's rate limit service, such as Envoy Gateway"`
	EnvoyXDSNode  string `key:"envoy_xds_node" default:"default" help:"what the control plane knows this node by"`
	EnvoyListen   string `key:"envoy_listen" help:"another address for Envoy's rate limit service alone, such as 127.0.0.1:8081"`
	EnvoyHTTP     string `key:"envoy_http" help:"address of /healthcheck, /json and /rlconfig of Envoy's rate limit service, such as 127.0.0.1:8080; empty means none"`
	EnvoyCertFile string `key:"envoy_cert_file" help:"certificate for envoy_listen and towards envoy_xds, in PEM; read again for each connection"`
	EnvoyKeyFile  string `key:"envoy_key_file" help:"private key of envoy_cert_file, in PEM"`
	EnvoyCAFile   string `key:"envoy_ca_file" help:"certificates that Envoy at envoy_listen and the control plane at envoy_xds must be certified by, in PEM; empty means that neither needs to be"`
	EnvoyShadow   bool   `key:"envoy_shadow" help:"answer OK to Envoy whatever was decided, and count"`
	EnvoyHeaders  string `key:"envoy_headers" help:"prefix of headers that tell Envoy's callers what is left, with Retry-After: RateLimit gives RateLimit-Limit, -Remaining and -Reset; empty means none"`
	EnvoyBody     string `key:"envoy_body" default:"none" help:"body that Envoy's callers get when they are refused: none, openai or anthropic"`
	EnvoyMetadata bool   `key:"envoy_metadata" help:"tell Envoy the domain, the descriptors and the metadata of rules, as dynamic metadata"`
	EnvoyPrefix   string `key:"envoy_prefix" default:"bucketring." help:"prefix of descriptor entries that make a descriptor a call under the policy"`

	Insecure bool `key:"insecure" help:"allow listening beyond loopback without credentials"`

	MaxKeys        int `key:"max_keys" default:"10000000" help:"most keys kept in memory"`
	MaxKeysPerRoot int `key:"max_keys_per_root" default:"1000000" help:"most keys kept under one root"`
	MaxIDs         int `key:"max_ids" default:"1048576" help:"most request ids remembered, reservations included"`

	DrainDelay      time.Duration `key:"drain_delay" help:"time between turning unready and refusing calls at shutdown"`
	ShutdownTimeout time.Duration `key:"shutdown_timeout" default:"15s" help:"time that calls in progress get to finish at shutdown"`

	ProxyListen string `key:"proxy_listen" help:"address of a proxy in front of a model server, whose calls this node limits; empty means none"`
	Proxy       Proxy  `prefix:"proxy_"`

	LogLevel  string `key:"log_level" default:"info" help:"debug, info, warn or error"`
	LogFormat string `key:"log_format" default:"auto" help:"json, text, or auto: text on a terminal"`
}

// envPrefix begins the names of environment variables.
const envPrefix = "BUCKETRING_"

func (c *Config) fields() []field { return fieldsOf(c, envPrefix) }

// Default returns the configuration of a node that is told nothing.
func Default() *Config {
	c := &Config{}
	setDefaults(c.fields())
	return c
}

func setDefaults(fields []field) {
	for _, f := range fields {
		if err := f.set(f.def); err != nil {
			panic("config: default of " + f.key + ": " + err.Error()) // a typo above
		}
	}
}
