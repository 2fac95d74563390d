// SPDX-License-Identifier: Apache-2.0

// Package config loads and validates the settings of a node and of a proxy. A
// setting is declared once, as a field of [Config] or [StandaloneProxy], from which
// come its YAML key, flag, environment variable, default and help.
//
// A flag takes precedence over the environment, the environment over the file given
// with --config, and the file over the default. An unknown key is an error.
package config

import "time"

// Config has the settings of a node. They are fixed while it runs; limits are in the
// policy, which may change.
type Config struct {
	Name      string   `key:"name" help:"name of this member, unique in the cluster and kept across restarts; empty means the host name"`
	HTTP      string   `key:"http" default:"127.0.0.1:6470" help:"address of the JSON API, health and metrics"`
	GRPC      string   `key:"grpc" default:"127.0.0.1:6471" help:"address of the gRPC API, which members also use among themselves"`
	Gossip    string   `key:"gossip" default:"127.0.0.1:6472" help:"address for cluster membership, TCP and UDP"`
	RESP      string   `key:"resp" help:"address of the Redis protocol, such as 127.0.0.1:6479; empty means none"`
	Advertise string   `key:"advertise" help:"host or host:port at which other members reach this one; the port is that of gossip; empty means the address of --gossip"`
	Join      []string `key:"join" help:"members to join, separated by commas: host or host:port of their gossip, resolved again for each attempt; this node may be in the list; empty means to start a cluster"`

	Cluster         string        `key:"cluster" default:"bucketring" help:"name of the cluster; nodes of other clusters are rejected"`
	ClusterKeyFile  string        `key:"cluster_key_file" help:"file with a base64 key of 16, 24 or 32 bytes per line: the first encrypts gossip and authenticates members, all are accepted; read again on SIGHUP"`
	JoinTimeout     time.Duration `key:"join_timeout" default:"5s" help:"time to wait at start until a member of --join answers; afterwards the node starts alone and keeps trying"`
	BootstrapExpect int           `key:"bootstrap_expect" help:"number of members that a new cluster begins with; 0 means this node and those of --join"`
	HandoverTimeout time.Duration `key:"handover_timeout" default:"30s" help:"time at shutdown for other members to take over all partitions of this node"`
	ForwardTimeout  time.Duration `key:"forward_timeout" default:"1s" help:"time that the owner of a key has to answer before this node decides without it"`

	Policy        string        `key:"policy" help:"policy file or directory, or https://... or postgres://..., reloaded when it changes; empty means the built-in policy"`
	PolicySource  PolicySource  `prefix:"policy_"`
	Data          string        `key:"data" help:"directory that keeps usage across restarts; empty means memory only"`
	SnapshotEvery time.Duration `key:"snapshot_every" default:"1m" help:"least time between snapshots, which replace a journal in the data directory that has grown large"`

	UsageLog     string `key:"usage_log" help:"file that gets a line for each call that was charged, for billing; set it on all members; empty means none"`
	UsageLogSize int    `key:"usage_log_size" default:"104857600" help:"size in bytes at which --usage-log is renamed, with the time in its name, and begun again; 0 means never"`
	UsageLogKeep int    `key:"usage_log_keep" help:"number of renamed files of --usage-log that are kept; 0 means all"`

	Tracing Tracing

	EnvoyConfig   string `key:"envoy_config" help:"file or directory with the rules of Envoy's rate limit service, in the format of envoyproxy/ratelimit, reloaded when it changes; this or --envoy-xds turns the service on, at the address of --grpc"`
	EnvoyXDS      string `key:"envoy_xds" help:"host:port of a control plane that serves the rules of Envoy's rate limit service, such as Envoy Gateway"`
	EnvoyXDSNode  string `key:"envoy_xds_node" default:"default" help:"name of this node at the control plane"`
	EnvoyListen   string `key:"envoy_listen" help:"additional address for Envoy's rate limit service only, such as 127.0.0.1:8081 or unix:/run/bucketring/rls.sock"`
	EnvoyHTTP     string `key:"envoy_http" help:"address of /healthcheck, /json and /rlconfig of Envoy's rate limit service, such as 127.0.0.1:8080; empty means none"`
	EnvoyCertFile string `key:"envoy_cert_file" help:"certificate in PEM for --envoy-listen, and for connections to --envoy-xds; read again for each connection"`
	EnvoyKeyFile  string `key:"envoy_key_file" help:"private key of --envoy-cert-file, in PEM"`
	EnvoyCAFile   string `key:"envoy_ca_file" help:"CA certificates in PEM that verify Envoy at --envoy-listen and the control plane at --envoy-xds; empty means that neither is verified"`

	EnvoyClientSAN       string        `key:"envoy_client_san" help:"DNS name or URI that Envoy's certificate at --envoy-listen must have; empty means any certificate of --envoy-ca-file"`
	EnvoyConnectionAge   time.Duration `key:"envoy_connection_age" default:"30m" help:"age at which connections to --envoy-listen are ended, at random up to 10% earlier or later, so that Envoy connects to new nodes"`
	EnvoyConnectionGrace time.Duration `key:"envoy_connection_grace" default:"1m" help:"time after --envoy-connection-age for calls in progress to finish"`

	EnvoyShadow   bool   `key:"envoy_shadow" help:"shadow mode: count calls, but always answer OK to Envoy"`
	EnvoyHeaders  string `key:"envoy_headers" help:"prefix of the headers with limits for Envoy's callers: RateLimit gives RateLimit-Limit, -Remaining and -Reset, with Retry-After; empty means none"`
	EnvoyBody     string `key:"envoy_body" default:"none" choices:"none,openai,anthropic" help:"body of denials to Envoy's callers: none, openai or anthropic"`
	EnvoyMetadata bool   `key:"envoy_metadata" help:"send Envoy the domain, the descriptors and the metadata of rules as dynamic metadata"`
	EnvoyPrefix   string `key:"envoy_prefix" default:"bucketring." help:"prefix of the descriptor entries that turn a descriptor into a call under the policy"`

	TLS         TLS
	TLSPeerName string `key:"tls_peer_name" default:"{name}" help:"name that the certificate of a member must have, {name} being that of the member: a DNS name, or a URI such as spiffe://example.org/bucketring/{name}"`

	Auth     string `key:"auth" help:"file or directory that lists who may call: token hashes, client certificates and JWTs, with scopes; reloaded when it changes; empty means that everybody may, so that this node listens on loopback only"`
	Insecure bool   `key:"insecure" help:"allow listening on other than loopback addresses without credentials"`
	AuditLog string `key:"audit_log" help:"file for what operators change, as lines of JSON; empty means the log of the node; a change that cannot be written to it is not made"`

	MaxKeys        int `key:"max_keys" default:"10000000" help:"maximum number of keys in memory"`
	MaxKeysPerRoot int `key:"max_keys_per_root" help:"maximum number of keys in memory under one root; 0 means a quarter of max_keys, at least 1,000"`
	MaxIDs         int `key:"max_ids" default:"1048576" help:"maximum number of request ids in memory, including reservations; one root gets at most 3/4 of them"`

	MaxConnections int `key:"max_connections" default:"4096" help:"maximum number of connections to each of the addresses of this node, a quarter of them from one remote address; fewer if the process may open few files"`

	DrainDelay      time.Duration `key:"drain_delay" help:"time at shutdown between becoming unready and rejecting calls"`
	ShutdownTimeout time.Duration `key:"shutdown_timeout" default:"15s" help:"time at shutdown for calls in progress to finish"`

	ProxyListen string `key:"proxy_listen" help:"address of a proxy in front of a model server, which runs in this node; empty means none"`
	Proxy       Proxy  `prefix:"proxy_"`

	LogLevel  string `key:"log_level" default:"info" choices:"debug,info,warn,error" help:"debug, info, warn or error"`
	LogFormat string `key:"log_format" default:"auto" choices:"auto,json,text" help:"json, text, or auto: text on a terminal"`
}

// envPrefix is the prefix of environment variables.
const envPrefix = "BUCKETRING_"

func (c *Config) fields() []field { return fieldsOf(c, envPrefix) }

// Default returns the default configuration of a node.
func Default() *Config {
	c := &Config{}
	setDefaults(c.fields())
	return c
}

func setDefaults(fields []field) {
	for _, f := range fields {
		if err := f.set(f.def); err != nil {
			panic("config: default of " + f.key + ": " + err.Error()) // a mistake in a struct tag
		}
	}
}
