// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Proxy has the settings of a proxy that runs alone or in a node.
type Proxy struct {
	Upstream           string        `key:"upstream" help:"URL of the model server, such as http://127.0.0.1:8000"`
	UpstreamKeyFile    string        `key:"upstream_key_file" help:"file with a credential that is sent to the model server instead of the caller's; empty means that the caller's is sent"`
	UpstreamTimeout    time.Duration `key:"upstream_timeout" default:"10m" help:"time that the model server has until its answer begins"`
	Identity           string        `key:"identity" help:"how callers are identified: bearer (by the api_keys of the policy), header:NAME (set by a trusted gateway) or jwt:CLAIM"`
	IdentityForm       string        `key:"identity_form" default:"path" choices:"path,segment" help:"how a header or claim becomes a key: path takes slashes as separators of segments, segment escapes the text into one segment, such as a URL"`
	JWTKeys            string        `key:"jwt_keys" help:"file with the public keys that verify tokens, in PEM or JWKS, of which keys of unknown kinds are skipped; read again on SIGHUP"`
	JWTSecretFile      string        `key:"jwt_secret_file" help:"file with the secret that verifies tokens signed with HS256, instead of public keys; read again on SIGHUP"`
	JWTIssuer          string        `key:"jwt_issuer" help:"issuer that tokens must have; empty means any"`
	JWTAudience        string        `key:"jwt_audience" help:"audience that tokens must have; empty means any"`
	DefaultModel       string        `key:"default_model" help:"model of metered calls that name none, which model servers with a default model run; empty means that limits of named models do not apply to them"`
	MaxWait            time.Duration `key:"max_wait" default:"10m" help:"time that a call may wait in line until it fits, where the policy lets calls wait, as long as the policy says at most; 0 means that no call waits"`
	OnDisconnect       string        `key:"on_disconnect" default:"charge" choices:"charge,drain" help:"when a caller disconnects: charge stops the model and charges the output so far, drain lets it finish and charges all output"`
	Lease              time.Duration `key:"lease" default:"30s" help:"lease of reservations, in whole seconds: if the proxy crashes, its calls are charged their last progress and free their slots after this time"`
	MaxBody            int           `key:"max_body" default:"8388608" help:"maximum body of a metered call, in bytes"`
	BodyMemory         int           `key:"body_memory" help:"maximum bytes of the bodies of metered calls that are in memory, of which the callers of one root get an eighth; 0 means 256 MiB, or eight times max_body if that is more"`
	ChargeServerErrors bool          `key:"charge_server_errors" help:"keep the charge for the requests of calls that the model server answers with 5xx, as it is always kept for 4xx"`
	StreamUsage        string        `key:"stream_usage" default:"auto" choices:"auto,always,never" help:"whether the model server is asked for the usage of streams: auto asks, and sends a call once more without asking if the server refuses stream_options; always; never"`
	WhenNoDecision     string        `key:"when_no_decision" default:"deny" choices:"deny,allow" help:"when no node answers: deny rejects metered calls, allow runs them without limits, marks their answers and charges them when a node answers again"`
	AccessLog          string        `key:"access_log" default:"off" choices:"off,sampled,on" help:"log metered calls, each in one line: off, sampled (one in 100) or on"`
	AccessLogKeys      string        `key:"access_log_keys" default:"hash" choices:"hash,plain" help:"keys in the access log and in all other lines about calls: hash, which is the same in all proxies, or plain"`
	Pass               []string      `key:"pass" default:"safe" help:"requests that are forwarded without being metered, and from anyone, such as safe,POST /tokenize,/files/*: safe is what runs no model, METHOD /path or /path adds to it, with * at the end for all paths below or at the beginning for any prefix; all is everything that is not metered, so that anyone may run models at other endpoints free of charge"`
	CORSOrigins        []string      `key:"cors_origins" help:"web origins whose pages may read answers, also denials and errors, such as https://chat.example.org, or * for all; the proxy then answers preflight requests itself; empty means that the model server decides"`
	Meter              []string      `key:"meter" help:"requests to other endpoints that are metered by count, such as POST /v1/rerank or POST /v1/audio/*: each takes a request and a slot, and is charged the tokens of the usage in its answer, if there is one, and the images and searches that it shows"`
}

// StandaloneProxy has the settings of a proxy that runs alone.
type StandaloneProxy struct {
	Listen  string   `key:"listen" default:"127.0.0.1:6473" help:"address of the proxy"`
	Servers []string `key:"servers" default:"127.0.0.1:6471" help:"gRPC addresses of nodes, separated by commas"`
	Proxy   Proxy

	Policy        string       `key:"policy" help:"policy whose api_keys identify callers: a file or directory, or https://... or postgres://..., reloaded when it changes; required for the identity bearer"`
	PolicySource  PolicySource `prefix:"policy_"`
	PolicyData    string       `key:"policy_data" help:"directory that keeps the last good policy of https://... or postgres://..., with which the proxy starts if that is down; empty means that it is not kept"`
	NodeTokenFile string       `key:"node_token_file" help:"file with the token by which this proxy proves who it is to nodes that have --auth; read again when it changes"`

	TLS        TLS
	ServersTLS ServersTLS

	Admin    string `key:"admin" default:"127.0.0.1:6474" help:"address of health and metrics"`
	Insecure bool   `key:"insecure" help:"allow listening on, and nodes at, other than loopback addresses without TLS"`

	DrainDelay      time.Duration `key:"drain_delay" help:"time at shutdown between becoming unready and rejecting calls"`
	ShutdownTimeout time.Duration `key:"shutdown_timeout" default:"15s" help:"time at shutdown for calls in progress to finish; those that do not are cut off and charged their output so far"`

	Tracing Tracing

	LogLevel  string `key:"log_level" default:"info" choices:"debug,info,warn,error" help:"debug, info, warn or error"`
	LogFormat string `key:"log_format" default:"auto" choices:"auto,json,text" help:"json, text, or auto: text on a terminal"`
}

// LongestWait is the longest that a policy lets calls wait.
const LongestWait = 10 * time.Minute

// proxyEnvPrefix gives a proxy the same environment variables alone and in a node.
const proxyEnvPrefix = envPrefix + "PROXY_"

func (c *StandaloneProxy) fields() []field { return fieldsOf(c, proxyEnvPrefix) }

// DefaultStandalone returns the default configuration of a proxy that runs alone.
func DefaultStandalone() *StandaloneProxy {
	c := &StandaloneProxy{}
	setDefaults(c.fields())
	return c
}

// AddStandaloneFlags is [AddFlags] for a proxy that runs alone.
func AddStandaloneFlags(flags *pflag.FlagSet) { addFlags(flags, DefaultStandalone().fields()) }

// LoadStandalone is [Load] for a proxy that runs alone. The environment variable of
// --upstream is BUCKETRING_PROXY_UPSTREAM.
func LoadStandalone(flags *pflag.FlagSet, lookupEnv func(string) (string, bool)) (*StandaloneProxy, []Setting, error) {
	c := DefaultStandalone()
	settings, err := loadInto(c.fields(), flags, lookupEnv, proxyEnvPrefix)
	if settings == nil {
		return nil, nil, err
	}
	return c, settings, err
}

// needsAPIKeys reports a policy that is not set and is needed to know callers.
func (c *Proxy) needsAPIKeys(policy string, p *problems) {
	if c.Identity == "bearer" && policy == "" {
		p.add("policy", "must be set: the identity bearer needs the api_keys of a policy")
	}
}

// ProxyReference is [Reference] for a proxy that runs alone.
func ProxyReference() string { return reference((&StandaloneProxy{}).fields()) }

// Validate reports every setting that cannot be used.
func (c *StandaloneProxy) Validate() error {
	var p problems
	for _, listen := range []struct{ key, address string }{{"listen", c.Listen}, {"admin", c.Admin}} {
		switch host, err := splitAddress(listen.address); {
		case err != nil:
			p.add(listen.key, "%w", err)
		case c.Insecure || isLoopback(host) || listen.key == "admin" && c.TLS.Required() || listen.key == "listen" && c.callersHaveCredentials():
		case c.TLS.Required():
			p.add(listen.key, exposed+"anybody could set the header of --identity; set --tls-client-auth require, use a loopback address, or allow it with --insecure", listen.address)
		default:
			p.add(listen.key, exposed+"the proxy has no TLS; set --tls required, use a loopback address behind a server that has TLS, or allow it with --insecure", listen.address)
		}
	}
	p.distinct("admin", c.Admin, "listen", c.Listen)
	if len(c.Servers) == 0 {
		p.add("servers", "must name a node")
	}
	c.Proxy.validate("", &p)
	c.PolicySource.validate(c.Policy, &p)
	c.validateTLS(&p)
	c.Proxy.needsAPIKeys(c.Policy, &p)
	p.notNegative("drain_delay", c.DrainDelay)
	p.notNegative("shutdown_timeout", c.ShutdownTimeout)
	c.Tracing.validate(&p)
	p.log(c.LogLevel, c.LogFormat)
	return errors.Join(p...)
}

// validate checks what does not need the packages that use the settings.
func (c *Proxy) validate(prefix string, p *problems) {
	if c.Upstream == "" {
		p.add(prefix+"upstream", "must be the URL of the model server, such as http://127.0.0.1:8000")
	}
	if c.Identity == "" {
		p.add(prefix+"identity", "must be bearer, header:NAME or jwt:CLAIM: nobody is trusted by default")
	}
	jwt := strings.HasPrefix(c.Identity, "jwt:")
	switch hasKeys := c.JWTKeys != "" || c.JWTSecretFile != ""; {
	case jwt && !hasKeys:
		p.add(prefix+"jwt_keys", "must be set for identity %s, or else %s", c.Identity, flagName(prefix+"jwt_secret_file"))
	case c.JWTKeys != "" && c.JWTSecretFile != "":
		p.add(prefix+"jwt_secret_file", "must not be set together with %s", flagName(prefix+"jwt_keys"))
	case !jwt && (hasKeys || c.JWTIssuer != "" || c.JWTAudience != ""):
		p.add(prefix+"identity", "must be jwt:CLAIM if there are settings for tokens, got %q", c.Identity)
	}
	p.oneOf(prefix+"identity_form", c.IdentityForm)
	if c.IdentityForm == "segment" && c.Identity == "bearer" {
		p.add(prefix+"identity_form", "must be path with identity bearer: the policy has the keys of its api_keys")
	}
	p.oneOf(prefix+"on_disconnect", c.OnDisconnect)
	p.oneOf(prefix+"when_no_decision", c.WhenNoDecision)
	p.oneOf(prefix+"stream_usage", c.StreamUsage)
	p.oneOf(prefix+"access_log", c.AccessLog)
	p.oneOf(prefix+"access_log_keys", c.AccessLogKeys)
	p.atLeastOne(prefix+"max_body", c.MaxBody)
	if c.BodyMemory != 0 && c.BodyMemory/2 < c.MaxBody {
		p.add(prefix+"body_memory", "must be 0 or at least twice %s, %d, got %d", flagName(prefix+"max_body"), c.MaxBody, c.BodyMemory)
	}
	if c.Lease < time.Second || c.Lease > time.Hour || c.Lease%time.Second != 0 {
		p.add(prefix+"lease", "must be whole seconds from 1s to 1h, got %s", c.Lease)
	}
	if c.MaxWait < 0 || c.MaxWait > LongestWait {
		p.add(prefix+"max_wait", "must be between 0s and 10m, got %s", c.MaxWait)
	}
	if c.UpstreamTimeout <= 0 {
		p.add(prefix+"upstream_timeout", "must be more than 0, got %s", c.UpstreamTimeout)
	}
}

// ReadSecret returns the secret in a file, without the line end. key names the
// setting in errors.
func ReadSecret(key, path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("%s: %s is empty", key, path)
	}
	return secret, nil
}
