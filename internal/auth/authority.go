// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/internal/jwtverify"
	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/internal/secret"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/internal/yamldoc"
)

// Options configure an [Authority]. Path is required.
type Options struct {
	// Path is a file, or a directory with files.
	Path string
	// NodeKeys are the cluster keys, from which members make the token of [NodeToken].
	// The first one is used and all are accepted. Nil: there are none.
	NodeKeys func() [][]byte
	// PeersProve reports whether members have credentials, without which nobody gets to the
	// service between members. Nil: they have.
	PeersProve func() bool
	// OnRefused is told of each call for administration that is refused. It may wait for a
	// disk. Nil: nobody is.
	OnRefused func(*Attempt)
	Logger    *slog.Logger          // nil: no log
	Registry  prometheus.Registerer // nil: no metrics
	Now       func() time.Time      // nil: time.Now
	// Debounce and Poll are those of package filewatch.
	Debounce, Poll time.Duration
}

// Authority knows the callers of a file, and decides by it. A nil Authority lets everybody
// do everything. It is safe for concurrent use.
type Authority struct {
	options  Options
	loader   *filewatch.Loader[Callers]
	failures *failures
	now      func() time.Time
	node     *caller       // other members' own calls
	changed  notify.Signal // the callers are others

	sessions struct {
		sync.Mutex
		open map[*Session]struct{}
	}
}

// New loads the callers. It fails if the files have problems.
func New(o Options) (*Authority, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NodeKeys == nil {
		o.NodeKeys = func() [][]byte { return nil }
	}
	if o.PeersProve == nil {
		o.PeersProve = func() bool { return true }
	}
	a := &Authority{options: o, now: o.Now, node: &caller{name: "node", scopes: Call}, changed: notify.New()}
	a.sessions.open = map[*Session]struct{}{}
	count := newFailures(o.Registry, o.Now)
	a.failures = count
	var err error
	a.loader, err = filewatch.Load(filewatch.Options[Callers]{
		Path: o.Path, What: "auth", Logger: o.Logger, Debounce: o.Debounce, Poll: o.Poll,
		Parse:    func(files []yamldoc.File) (*Callers, error) { return parse(files, o.Logger, count) },
		OnReload: func(_, now *Callers) { a.reloaded(now) },
		OnError:  a.logFailure,
	})
	if err != nil {
		return nil, err
	}
	if o.Registry != nil {
		o.Registry.MustRegister(newCollector(a))
	}
	o.Logger.Info("callers loaded", "path", o.Path, "callers", a.loader.Current().Len())
	return a, nil
}

func (a *Authority) logFailure(err error) {
	a.options.Logger.Error("callers not reloaded", filewatch.LogAttrs(a.options.Path, err)...)
}

// reloaded ends the streams of callers that may not have them any more.
func (a *Authority) reloaded(now *Callers) {
	ended := a.renew()
	a.changed.Set()
	a.options.Logger.Info("callers changed", "path", a.options.Path, "callers", now.Len(), "ended_streams", ended)
}

// Reload loads the files now, changed or not. If it fails, nothing changes but [Status], and
// the error is logged.
func (a *Authority) Reload() error {
	if a == nil {
		return nil
	}
	err := a.loader.Reload()
	if err != nil {
		a.logFailure(err)
	}
	return err
}

// Run loads the files again whenever they change, and when the file with the keys for JWTs
// does, until ctx is done.
func (a *Authority) Run(ctx context.Context) {
	var keys sync.WaitGroup
	keys.Go(func() { a.watchKeys(ctx) })
	a.loader.Run(ctx)
	keys.Wait()
}

// retryKeys is how soon a file with keys for JWTs is watched again that could not be read.
const retryKeys = 5 * time.Second

// watchKeys loads the callers again when the file with the keys for JWTs changes.
func (a *Authority) watchKeys(ctx context.Context) {
	for ctx.Err() == nil {
		path := a.loader.Current().jwtFile
		watching, stop := context.WithCancel(ctx)
		var done sync.WaitGroup
		var retry <-chan time.Time
		if path != "" {
			if watch, err := a.watchFile(path); err != nil { // the callers are the last ones that could be loaded
				retry = time.After(retryKeys)
			} else {
				done.Go(func() { watch(watching) })
			}
		}
		for same := true; same; {
			select {
			case <-ctx.Done():
				same = false
			case <-retry:
				same = false
			case <-a.changed.C():
				same = a.loader.Current().jwtFile == path
			}
		}
		stop()
		done.Wait()
	}
}

// watchFile returns a function that loads the callers again when the file at path changes,
// until its context is done. It does so now if the callers have other keys than the file.
func (a *Authority) watchFile(path string) (watch func(context.Context), err error) {
	l, err := filewatch.Load(filewatch.Options[secret.Hash]{
		Path: path, What: "keys for JWTs", Logger: a.options.Logger, Debounce: a.options.Debounce, Poll: a.options.Poll,
		Parse: func(files []yamldoc.File) (*secret.Hash, error) {
			hash := secret.Of(string(files[0].Source))
			return &hash, nil
		},
		OnReload: func(_, _ *secret.Hash) { _ = a.Reload() }, // which logs
	})
	if err != nil {
		return nil, err
	}
	if now := a.loader.Current(); now.jwtFile == path && now.jwtHash != *l.Current() {
		_ = a.Reload() // which logs
	}
	return l.Run, nil
}

// Status is the status of the callers, for people.
type Status struct {
	filewatch.Status
	Callers int `json:"callers"`
	Streams int `json:"streams"` // open streams of callers
}

// Status returns the status, nil if there is no auth.
func (a *Authority) Status() *Status {
	if a == nil {
		return nil
	}
	s, c := a.loader.Status()
	a.sessions.Lock()
	defer a.sessions.Unlock()
	return &Status{s, c.Len(), len(a.sessions.open)}
}

// credentials are what a call presents.
type credentials struct {
	token   string // "": none
	wrong   bool   // there is a header that has no bearer token
	tls     *tls.ConnectionState
	address netip.Addr
}

// authenticate returns the grant of a caller. A token decides if there is one, and else the
// client certificate. Tokens are looked up by their hashes, see [secret.Map], so that a
// valid one passes whatever else comes from its address.
func (a *Authority) authenticate(c credentials) (*Grant, *Error) {
	callers := a.loader.Current()
	switch {
	case c.wrong:
		return nil, a.fail(c, Malformed, "Authorization must be Bearer and a token, once")
	case len(c.token) > jwtverify.MaxTokenBytes:
		return nil, a.fail(c, Malformed, "the token has more than %d bytes", jwtverify.MaxTokenBytes)
	case c.token != "":
		return a.byToken(callers, c)
	}
	if g := callers.byCertificate(c.tls, a); g != nil {
		if g.expired(a.now()) {
			return nil, a.fail(c, UnknownCertificate, "the client certificate has expired: connect again with a new one")
		}
		return g, nil
	}
	if c.tls != nil && len(c.tls.VerifiedChains) > 0 {
		return nil, a.fail(c, UnknownCertificate, "the client certificate is of no caller: list one of its names (%s) under certificates in the file of --auth, or send a token", shownNames(c.tls))
	}
	return nil, a.fail(c, Missing, "credentials are missing: send a token in Authorization: Bearer (--token-file of the commands of bucketring), or a client certificate")
}

// fail counts a call without valid credentials, and returns its error.
func (a *Authority) fail(c credentials, why Reason, format string, args ...any) *Error {
	if wait := a.failures.fail(c.address); wait > 0 {
		return a.tooMany(wait)
	}
	a.failures.add(why)
	return unauthenticated(format, args...)
}

func (a *Authority) tooMany(wait time.Duration) *Error {
	a.failures.add(TooMany)
	return &Error{
		Code:       codes.ResourceExhausted,
		Message:    "this address has sent too many calls without valid credentials within a minute; correct the credentials: valid ones are still accepted",
		RetryAfter: wait,
	}
}

func (a *Authority) byToken(callers *Callers, c credentials) (*Grant, *Error) {
	hash := secret.Of(c.token)
	if g, ok := callers.tokens.Find(hash); ok {
		return g, nil
	}
	if a.isNodeToken(c.token) {
		return &Grant{caller: a.node, callers: callers, proof: byNode, count: a.failures}, nil
	}
	if strings.Count(c.token, ".") != 2 || callers.jwt == nil {
		return nil, a.fail(c, UnknownToken, "the token is unknown or revoked: use one whose hash is in the file of --auth (bucketring auth token makes both)")
	}
	slot := &callers.seenJWTs[binary.LittleEndian.Uint64(hash[:])%maxSeen]
	if g := slot.Load(); g != nil && g.hash == hash && !g.expired(a.now()) { // its hash is of a token that was valid, so it tells nothing
		return g, nil
	}
	if wait := a.failures.suspect(c.address); wait > 0 && !a.failures.mayVerify() {
		return nil, a.tooMany(wait)
	}
	g, why, err := callers.verifyJWT(c.token, hash, a)
	if err != nil {
		return nil, a.fail(c, why, "%s", lowerFirst(err.Error()))
	}
	slot.Store(g)
	return g, nil
}

var errNoCaller = errors.New("the token is valid, but no caller in the file of --auth has its claims")

// verifyJWT verifies a token, and finds its caller: the first one that has its claims.
func (c *Callers) verifyJWT(token string, hash secret.Hash, a *Authority) (*Grant, Reason, error) {
	claims, err := c.jwt.Claims(token)
	if err != nil {
		if invalid, ok := errors.AsType[*jwtverify.Error](err); ok && invalid.Expired {
			return nil, ExpiredJWT, err
		}
		return nil, InvalidJWT, err
	}
	for _, who := range c.list {
		if who.has(claims) {
			g := &Grant{caller: who, callers: c, proof: byJWT, hash: hash, token: token, count: a.failures}
			if exp, err := claims.GetExpirationTime(); err == nil && exp != nil {
				g.expires = exp.Add(jwtverify.Leeway)
			}
			return g, 0, nil
		}
	}
	return nil, InvalidJWT, errNoCaller
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// certGrant is the grant of a certificate.
type certGrant struct {
	leaf  *x509.Certificate
	grant *Grant
}

// byCertificate returns the grant of a verified client certificate, or nil. It is found once
// for a connection.
func (c *Callers) byCertificate(state *tls.ConnectionState, a *Authority) *Grant {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 || len(c.certificates) == 0 {
		return nil
	}
	leaf := state.PeerCertificates[0]
	slot := &c.seenCerts[certSlot(leaf)]
	if seen := slot.Load(); seen != nil && seen.leaf == leaf {
		return seen.grant
	}
	names := certNames(leaf)
	who := c.byNames(names)
	if who == nil {
		return nil
	}
	g := &Grant{caller: who, callers: c, proof: byCertificate, names: names, expires: leaf.NotAfter, count: a.failures}
	slot.Store(&certGrant{leaf, g})
	return g
}

func certSlot(leaf *x509.Certificate) uint64 {
	if n := len(leaf.Signature); n >= 8 {
		return binary.LittleEndian.Uint64(leaf.Signature[n-8:]) % maxSeen
	}
	return 0
}

// certNames returns the names of a certificate as the file has them.
func certNames(leaf *x509.Certificate) []string {
	var names []string
	for _, uri := range leaf.URIs {
		names = append(names, uri.String())
	}
	for _, name := range leaf.DNSNames {
		names = append(names, strings.ToLower(name))
	}
	if leaf.Subject.CommonName != "" {
		names = append(names, commonName+leaf.Subject.CommonName)
	}
	return names
}

// shownNames returns some names of a certificate for a message.
func shownNames(state *tls.ConnectionState) string {
	const most = 4
	names := certNames(state.VerifiedChains[0][0])
	for i := range names {
		names[i] = text.Quote(names[i])
	}
	if len(names) > most {
		names = append(names[:most], "...")
	}
	return strings.Join(names, ", ")
}

func (c *Callers) byNames(names []string) *caller {
	for _, name := range names {
		if who := c.certificates[name]; who != nil {
			return who
		}
	}
	return nil
}

func (g *Grant) expired(now time.Time) bool { return !g.expires.IsZero() && now.After(g.expires) }

// again returns the grant that the credentials of g have now, or nil.
func (a *Authority) again(g *Grant, now *Callers) *Grant {
	if g.expired(a.now()) {
		return nil
	}
	next := *g
	next.callers = now
	switch g.proof {
	case byToken:
		found, _ := now.tokens.Find(g.hash)
		return found
	case byCertificate:
		next.caller = now.byNames(g.names)
	case byJWT:
		if now.jwt == nil {
			return nil
		}
		n, _, err := now.verifyJWT(g.token, g.hash, a)
		if err != nil {
			return nil
		}
		return n
	}
	if next.caller == nil {
		return nil
	}
	return &next
}
