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

// Proxy is what a proxy can be told, by itself or as a part of a node.
type Proxy struct {
	Upstream        string        `key:"upstream" help:"URL of the model server, such as http://127.0.0.1:8000"`
	UpstreamKeyFile string        `key:"upstream_key_file" help:"file with a credential that goes to the model server in place of the caller's; empty means that the caller's does"`
	UpstreamTimeout time.Duration `key:"upstream_timeout" default:"10m" help:"time that the model server gets until its answer begins"`
	Identity        string        `key:"identity" help:"who calls: bearer (the policy's api_keys), header:NAME (of a gateway that is trusted) or jwt:CLAIM"`
	JWTKeys         string        `key:"jwt_keys" help:"file with the public keys of tokens, PEM or JWKS; read again on SIGHUP"`
	JWTSecretFile   string        `key:"jwt_secret_file" help:"file with the secret of tokens signed with HS256, instead of jwt_keys; read again on SIGHUP"`
	JWTIssuer       string        `key:"jwt_issuer" help:"issuer that tokens must have; empty means any"`
	JWTAudience     string        `key:"jwt_audience" help:"audience that tokens must have; empty means any"`
	WhenGone        string        `key:"when_gone" default:"charge" help:"when a caller leaves: charge stops the model and charges what came, drain lets it finish and charges all"`
	Lease           time.Duration `key:"lease" default:"30s" help:"time after which the calls of a proxy that died are charged their last progress, and their slots are free; whole seconds"`
	MaxBody         int           `key:"max_body" default:"8388608" help:"largest body of a metered call, in bytes"`
	Pass            []string      `key:"pass" default:"all" help:"what goes to the model server unmetered, and without asking who calls: method and path, * at the end for all below; safe for what runs no model; all for everything that is not metered"`
}

// Standalone is everything that a proxy of its own can be told.
type Standalone struct {
	Listen  string   `key:"listen" default:"127.0.0.1:6473" help:"address to serve at"`
	Servers []string `key:"servers" default:"127.0.0.1:6471" help:"gRPC addresses of nodes, separated by commas"`
	Proxy   Proxy

	Policy   string `key:"policy" help:"policy file or directory whose api_keys say who calls, watched; needed for the identity bearer"`
	Admin    string `key:"admin" default:"127.0.0.1:6474" help:"address of health and metrics"`
	Insecure bool   `key:"insecure" help:"allow listening beyond loopback without TLS, and nodes at other addresses"`

	DrainDelay      time.Duration `key:"drain_delay" help:"time between turning unready and refusing calls at shutdown"`
	ShutdownTimeout time.Duration `key:"shutdown_timeout" default:"15s" help:"time that calls in progress get to finish at shutdown; the rest is broken off and charged what came"`

	LogLevel  string `key:"log_level" default:"info" help:"debug, info, warn or error"`
	LogFormat string `key:"log_format" default:"auto" help:"json, text, or auto: text on a terminal"`
}

// proxyEnvPrefix makes the variables of a proxy the same in both forms.
const proxyEnvPrefix = envPrefix + "PROXY_"

func (c *Standalone) fields() []field { return fieldsOf(c, proxyEnvPrefix) }

// DefaultStandalone returns the configuration of a proxy that is told nothing.
func DefaultStandalone() *Standalone {
	c := &Standalone{}
	setDefaults(c.fields())
	return c
}

// AddStandaloneFlags is [AddFlags] for a proxy of its own.
func AddStandaloneFlags(flags *pflag.FlagSet) { addFlags(flags, DefaultStandalone().fields()) }

// LoadStandalone is [Load] for a proxy of its own. The environment has
// BUCKETRING_PROXY_UPSTREAM for --upstream.
func LoadStandalone(flags *pflag.FlagSet, lookupEnv func(string) (string, bool)) (*Standalone, []Setting, error) {
	c := DefaultStandalone()
	settings, err := loadInto(c.fields(), flags, lookupEnv, proxyEnvPrefix)
	if settings == nil {
		return nil, nil, err
	}
	return c, settings, err
}

// ProxyReference is [Reference] for a proxy of its own.
func ProxyReference() string { return reference((&Standalone{}).fields()) }

// Validate reports every setting that cannot be used.
func (c *Standalone) Validate() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, fmt.Errorf(key+": "+format, args...))
	}
	for _, listen := range []struct{ key, address string }{{"listen", c.Listen}, {"admin", c.Admin}} {
		switch host, err := splitAddress(listen.address); {
		case err != nil:
			bad(listen.key, "%w", err)
		case !c.Insecure && !isLoopback(host):
			bad(listen.key, "%s is reachable from other machines and this version has no TLS; use a loopback address behind something that has, or allow it with insecure", listen.address)
		}
	}
	if c.Listen == c.Admin && !strings.HasSuffix(c.Listen, ":0") {
		bad("admin", "must differ from listen, got %s twice", c.Admin)
	}
	if len(c.Servers) == 0 {
		bad("servers", "must name a node")
	}
	c.Proxy.validate("", bad)
	if c.Proxy.Identity == "bearer" && c.Policy == "" {
		bad("policy", "must be set: it has the api_keys of identity bearer")
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"drain_delay", c.DrainDelay}, {"shutdown_timeout", c.ShutdownTimeout}} {
		if d.value < 0 {
			bad(d.key, "must not be negative, got %s", d.value)
		}
	}
	validateLog(bad, c.LogLevel, c.LogFormat)
	return errors.Join(problems...)
}

// validate looks at what can be seen without the packages that use it.
func (p *Proxy) validate(prefix string, bad complaint) {
	if p.Upstream == "" {
		bad(prefix+"upstream", "must be the URL of the model server, such as http://127.0.0.1:8000")
	}
	if p.Identity == "" {
		bad(prefix+"identity", "must be bearer, header:NAME or jwt:CLAIM: nobody is trusted by default")
	}
	jwt := strings.HasPrefix(p.Identity, "jwt:")
	switch given := p.JWTKeys != "" || p.JWTSecretFile != ""; {
	case jwt && !given:
		bad(prefix+"jwt_keys", "must be set for identity %s, or %sjwt_secret_file", p.Identity, prefix)
	case p.JWTKeys != "" && p.JWTSecretFile != "":
		bad(prefix+"jwt_secret_file", "must not be set together with %sjwt_keys", prefix)
	case !jwt && (given || p.JWTIssuer != "" || p.JWTAudience != ""):
		bad(prefix+"identity", "must be jwt:CLAIM if tokens are checked, got %q", p.Identity)
	}
	oneOf(bad, prefix+"when_gone", p.WhenGone, "charge", "drain")
	if p.MaxBody < 1 {
		bad(prefix+"max_body", "must be at least 1, got %d", p.MaxBody)
	}
	if p.Lease < time.Second || p.Lease > time.Hour || p.Lease%time.Second != 0 {
		bad(prefix+"lease", "must be whole seconds from 1s to 1h, got %s", p.Lease)
	}
	if p.UpstreamTimeout <= 0 {
		bad(prefix+"upstream_timeout", "must be more than 0, got %s", p.UpstreamTimeout)
	}
}

// ReadSecret reads a file that has one secret, without the line end.
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
