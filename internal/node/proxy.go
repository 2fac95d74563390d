// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/jwtverify"
	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/tracing"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/proxy"
)

// Proxy is a reverse proxy built from settings, with its client of the nodes.
type Proxy struct {
	*proxy.Server
	settings config.Proxy
	handler  *proxy.Proxy
	client   *client.Client
	log      *slog.Logger
	jwt      *jwtverify.Verifier // nil: identity does not use JWT
}

// ProxyOptions configure a [Proxy] besides its settings.
type ProxyOptions struct {
	Prefix   string // of the names of settings in errors
	Policy   func() *policy.Policy
	Nodes    client.Options
	Tracer   *tracing.Tracer // nil: no spans
	Logger   *slog.Logger
	Registry *prometheus.Registry
}

// NewProxy returns a proxy with valid settings. The caller must Close it.
func NewProxy(c config.Proxy, o ProxyOptions) (p *Proxy, err error) {
	p = &Proxy{settings: c, log: o.Logger}
	invalid := func(key string, err error) error { return fmt.Errorf("%s%s: %w", o.Prefix, key, err) }
	options := proxy.Options{ResponseHeaderTimeout: c.UpstreamTimeout, Tracer: o.Tracer}
	if o.Tracer != nil {
		o.Nodes.Trace = tracing.LinkOf
	}
	if options.Upstream, err = proxy.ParseUpstream(c.Upstream); err != nil {
		return nil, invalid("upstream", err)
	}
	if options.Pass, err = proxy.ParsePass(c.Pass); err != nil {
		return nil, invalid("pass", err)
	}
	if options.Pass.All() {
		o.Logger.Warn("requests pass without metering and without identification; set this to safe to pass only those that run no model", "setting", o.Prefix+"pass", "opens", proxy.Opened)
	}
	if options.Meter, err = proxy.ParseMeter(c.Meter); err != nil {
		return nil, invalid("meter", err)
	}
	if options.Origins, err = proxy.ParseOrigins(c.CORSOrigins); err != nil {
		return nil, invalid("cors_origins", err)
	}
	if c.UpstreamKeyFile != "" {
		if options.UpstreamKey, err = config.ReadSecret(o.Prefix+"upstream_key_file", c.UpstreamKeyFile); err != nil {
			return nil, err
		}
	}
	identityOptions := proxy.IdentityOptions{Policy: o.Policy}
	if identityOptions.Form, err = proxy.ParseIdentityForm(c.IdentityForm); err != nil {
		return nil, invalid("identity_form", err)
	}
	if c.JWTKeys != "" || c.JWTSecretFile != "" {
		keys, err := jwtKeys(c, o.Logger)
		if err != nil {
			return nil, fmt.Errorf("%s%w", o.Prefix, err)
		}
		if p.jwt, err = jwtverify.New(jwtverify.Options{Keys: keys, Issuer: c.JWTIssuer, Audience: c.JWTAudience, Logger: o.Logger}); err != nil {
			return nil, invalid("jwt_keys", err)
		}
		identityOptions.JWT = p.jwt
	}
	identify, err := proxy.ParseIdentity(c.Identity, identityOptions)
	if err != nil {
		return nil, invalid("identity", err)
	}
	if c.Identity == "bearer" && o.Policy().APIKeys() == 0 {
		o.Logger.Warn("the policy has no API keys: every call gets a 401 until it has the caller's", "setting", "api_keys", "hint", "bucketring policy hash-key")
	}
	keys := keypath.LogHash
	if c.AccessLogKeys == "plain" {
		keys = keypath.LogPlain
	}
	o.Nodes.OnSettlementDropped = func(key, requestID string, err error) {
		name, value := keys.Field(key)
		o.Logger.Error("usage of a call was not reported", name, value, "request_id", requestID, "error", keys.ErrorText(err, key))
	}
	if p.client, err = client.Dial(o.Nodes); err != nil {
		return nil, err
	}
	m := &options.Middleware
	m.Client, m.Identify, m.MaxBodyBytes, m.Logger, m.Registerer = p.client, identify, int64(c.MaxBody), o.Logger, o.Registry
	m.DefaultModel = c.DefaultModel
	m.Lease, m.BodyMemory, m.ChargeServerErrors = c.Lease, int64(c.BodyMemory), c.ChargeServerErrors
	if c.MaxWait < config.LongestWait { // else it is as the policy says
		m.MaxWait = &c.MaxWait
	}
	if m.OnDisconnect, err = proxy.ParseDisconnectMode(c.OnDisconnect); err != nil {
		return nil, invalid("on_disconnect", err)
	}
	if m.StreamUsage, err = proxy.ParseStreamUsage(c.StreamUsage); err != nil {
		return nil, invalid("stream_usage", err)
	}
	if m.WhenUndecided, err = proxy.ParseUndecidedMode(c.WhenNoDecision); err != nil {
		return nil, invalid("when_no_decision", err)
	}
	if m.AccessLog, err = proxy.ParseAccessLog(c.AccessLog); err != nil {
		return nil, invalid("access_log", err)
	}
	m.AccessLogPlainKeys = keys == keypath.LogPlain
	if c.WhenNoDecision == "allow" {
		o.Logger.Warn("metered calls run without limits while no node answers", "setting", o.Prefix+"when_no_decision")
	}
	handler, err := proxy.New(options)
	if err != nil {
		_ = p.client.Close() // has no pending settlements
		return nil, err
	}
	p.Server, p.handler = proxy.NewServer(handler), handler
	return p, nil
}

// jwtKeys reads the keys of tokens, and logs those that are skipped.
func jwtKeys(c config.Proxy, log *slog.Logger) (jwtverify.Keys, error) {
	key, path := "jwt_keys", c.JWTKeys
	if c.JWTSecretFile != "" {
		key, path = "jwt_secret_file", c.JWTSecretFile
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	var keys jwtverify.Keys
	var skipped []error
	if c.JWTSecretFile != "" {
		keys, err = jwtverify.ParseSecret(text)
	} else {
		keys, skipped, err = jwtverify.ParseKeys(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", key, path, err)
	}
	for _, why := range skipped {
		log.Warn("a key for tokens is skipped", "file", path, "error", why)
	}
	return keys, nil
}

// Reload reads the JWT keys again. Invalid keys change nothing.
func (p *Proxy) Reload() error {
	if p.jwt == nil {
		return nil
	}
	keys, err := jwtKeys(p.settings, p.log)
	if err != nil {
		return err
	}
	p.jwt.SetKeys(keys)
	return nil
}

// Client returns the client of the nodes.
func (p *Proxy) Client() *client.Client { return p.client }

// Drain waits until calls in flight have ended or ctx is done, and then reports
// their usage to the nodes.
func (p *Proxy) Drain(ctx context.Context) error {
	if err := p.Shutdown(ctx); err != nil {
		return err
	}
	flushCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	return errors.Join(p.handler.Flush(flushCtx), p.client.Flush(flushCtx))
}

// Close ends the connections to nodes.
func (p *Proxy) Close() error { return p.client.Close() }

// openProxy creates the proxy of the node, if it is configured. Its client connects
// to the node itself, which tells it the owners.
func (n *Node) openProxy() (err error) {
	c := n.config
	if c.ProxyListen == "" {
		return nil
	}
	if n.proxyListener, err = n.listen("proxy", c.ProxyListen, nil, listenlimit.HTTPRefusal()); err != nil {
		return fmt.Errorf("listen on proxy_listen: %w", err)
	}
	nodes := n.ownClient()
	nodes.Timeout = proxyTimeout(c.ForwardTimeout)
	n.asCaller(&nodes)
	n.proxy, err = NewProxy(c.Proxy, ProxyOptions{
		Prefix: "proxy_", Policy: n.policies.Current, Logger: n.log, Registry: n.registry, Tracer: n.tracer,
		Nodes: nodes,
	})
	if err != nil {
		return err
	}
	n.cleanups.push("close the proxy", n.proxy.Close)
	return nil
}

// proxyTimeout leaves the node time for a fallback after forward_timeout.
func proxyTimeout(forward time.Duration) time.Duration { return forward + forward/2 }

// dialable returns the address at which a process on the same machine reaches a
// listener.
func dialable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	return net.JoinHostPort("localhost", fmt.Sprint(tcp.Port))
}

// ProxyAddr returns the address of the proxy, or "" if there is none.
func (n *Node) ProxyAddr() string {
	if n.proxyListener == nil {
		return ""
	}
	return n.proxyListener.Addr().String()
}

// drainProxy runs while the other servers of the node still answer.
func (n *Node) drainProxy() error {
	ctx, cancel := context.WithTimeout(context.Background(), n.config.ShutdownTimeout)
	defer cancel()
	return n.proxy.Drain(ctx)
}
