// SPDX-License-Identifier: Apache-2.0

// Package auth decides who may call a node, at all of its addresses. A file lists callers:
// each proves itself by a token, of which the file has the hash, by a client certificate or
// by a JWT, and has scopes. The file is loaded again when it changes.
//
// [Authority.GRPC] and [Authority.HTTP] decide once per call or stream, and leave a [Grant]
// in its context. Whoever decides for a key asks the grant. What is in no table needs the
// scope admin, so that a new method or path is closed until it is listed.
package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/secret"
	"github.com/bucketring/bucketring/internal/text"
)

// Scope is a set of what callers may do.
type Scope uint8

// The scopes. None includes another one.
const (
	Call     Scope = 1 << iota // charge keys, and look at what calls need: limits and owners
	Read                       // status, limits of any key, hot keys, owners, metrics
	Admin                      // everything that changes a node or its cluster
	Metrics                    // metrics
	anyScope Scope = 1<<iota - 1
)

var scopeNames = []string{"call", "read", "admin", "metrics"}

// String returns the names of the scopes, for messages: "call or read".
func (s Scope) String() string {
	var names []string
	for i, name := range scopeNames {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " or ")
}

// caller is one entry of the file.
type caller struct {
	name   string
	scopes Scope
	roots  []pattern // empty: all
	claims []claim   // all of which a JWT must have; empty: no JWT
}

// A Grant is what a call or a stream may do. A nil Grant may do everything: there is no
// auth, or the call was made by the node itself. It is immutable and safe for concurrent
// use.
type Grant struct {
	caller  *caller // nil: may use no key
	callers *Callers
	proof   proof
	hash    secret.Hash // of the token
	token   string      // a JWT
	names   []string    // of a certificate
	expires time.Time   // zero: never
	count   *failures   // counts what the grant refuses
}

// proof is how a caller has proved itself.
type proof uint8

const (
	byToken proof = 1 + iota
	byCertificate
	byJWT
	byNode // by a member's own token
)

// open is the grant of what needs no credentials.
var open = &Grant{}

// Caller returns the name of the caller, or "" if there is no auth.
func (g *Grant) Caller() string {
	if g == nil || g.caller == nil {
		return ""
	}
	return g.caller.name
}

// AllKeys reports whether the grant is for all keys.
func (g *Grant) AllKeys() bool {
	return g == nil || g.caller != nil && g.caller.scopes&Call != 0 && len(g.caller.roots) == 0
}

// ForKey returns nil if the grant is for a key, to look at it only if peek is set.
// Otherwise it returns the error of the call. It allocates nothing if it returns nil.
func (g *Grant) ForKey(key string, peek bool) error {
	if g.AllKeys() {
		return nil
	}
	if c := g.caller; c != nil {
		if peek && c.scopes&Read != 0 {
			return nil
		}
		if c.scopes&Call != 0 && matchesAny(c.roots, keypath.Root(key)) {
			return nil
		}
	}
	return g.deniedKey(key)
}

func (g *Grant) deniedKey(key string) error {
	g.count.add(WrongRoot)
	c := g.caller
	if c == nil || c.scopes&Call == 0 {
		return denied("the scope call is needed for the key %s%s", text.Quote(key), c.hint())
	}
	return denied("caller %s may not call keys under the root %s: its roots are %s; add the root in the file of --auth, or use another key", c.name, text.Quote(keypath.Root(key)), listPatterns(c.roots))
}

func (c *caller) hint() string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("; caller %s has %s", c.name, strings.ReplaceAll(c.scopes.String(), " or ", ", "))
}

// allows returns nil if the grant meets a rule.
func (g *Grant) allows(r rule, what string) *Error {
	if g.caller.scopes&r.scopes == 0 {
		g.count.add(WrongScope)
		return denied("%s needs the scope %s%s; add it in the file of --auth, or use other credentials", what, r.scopes, g.caller.hint())
	}
	if r.allRoots && !g.AllKeys() {
		g.count.add(WrongRoot)
		return denied("%s needs the scope call for all roots; caller %s has it for %s only", what, g.caller.name, listPatterns(g.caller.roots))
	}
	return nil
}

// Error is why a call is refused. Nothing was charged. Its text has no credential.
type Error struct {
	Code    codes.Code // Unauthenticated, PermissionDenied or ResourceExhausted
	Message string
	// RetryAfter comes with ResourceExhausted.
	RetryAfter time.Duration
	// Challenges are the values of WWW-Authenticate, with Unauthenticated. Each needs a line of
	// its own: Chromium reads one challenge of a line.
	Challenges []string

	attempt *Attempt // that [Authority.Check] reports; nil: none
}

func (e *Error) Error() string { return e.Message }

// GRPCStatus is how grpc-go finds out what to send.
func (e *Error) GRPCStatus() *grpcstatus.Status { return grpcstatus.New(e.Code, e.Message) }

func denied(format string, args ...any) *Error {
	return &Error{Code: codes.PermissionDenied, Message: fmt.Sprintf(format, args...)}
}

func unauthenticated(format string, args ...any) *Error {
	return &Error{Code: codes.Unauthenticated, Message: fmt.Sprintf(format, args...), Challenges: bearerChallenges}
}

var bearerChallenges = []string{`Bearer realm="bucketring"`}

const passwordChallenge = `Basic realm="bucketring: a token as the password"`

// grantKey is the key of a context whose value is a *Grant, or an *Error.
type grantKey struct{}

// From returns the grant of a call, which is nil if there is none.
func From(ctx context.Context) *Grant {
	g, _ := ctx.Value(grantKey{}).(*Grant)
	return g
}

// pattern matches roots. A star stands for any text.
type pattern string

// match reports whether the pattern matches all of root.
func (p pattern) match(root string) bool {
	star, from := -1, 0 // the last star, and where what it stands for ends
	i := 0
	for j := 0; j < len(root); {
		switch {
		case i < len(p) && p[i] == '*':
			star, from = i, j
			i++
		case i < len(p) && p[i] == root[j]:
			i++
			j++
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

func matchesAny(patterns []pattern, root string) bool {
	return slices.ContainsFunc(patterns, func(p pattern) bool { return p.match(root) })
}

// maxShown bounds how many patterns a message lists.
const maxShown = 8

func listPatterns(patterns []pattern) string {
	var b strings.Builder
	for i, p := range patterns {
		if i == maxShown {
			fmt.Fprintf(&b, " and %d more", len(patterns)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(p))
	}
	return b.String()
}
