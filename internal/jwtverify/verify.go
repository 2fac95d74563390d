// SPDX-License-Identifier: Apache-2.0

// Package jwtverify verifies JSON Web Tokens with public keys or a secret. The proxy
// identifies those who pay for calls by it, and a node those who may call it.
package jwtverify

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	shown "github.com/bucketring/bucketring/internal/text"
)

// MaxTokenBytes bounds a token.
const MaxTokenBytes = 16 << 10

// Leeway is the tolerated clock skew.
const Leeway = 30 * time.Second

// An Error says why a token is not valid, in a sentence for whoever sent it, without the
// token.
type Error struct {
	Message string
	Expired bool
}

func (e *Error) Error() string { return e.Message }

func invalid(format string, args ...any) error { return &Error{Message: fmt.Sprintf(format, args...)} }

// Options configure a [Verifier].
type Options struct {
	// Keys verify the signatures. At least one is required. See [ParseKeys] and
	// [ParseSecret].
	Keys Keys
	// Issuer and Audience are the required iss and aud of tokens. Empty: any.
	Issuer, Audience string
	// Logger logs why tokens with a valid signature are rejected, each claim once a minute
	// at most. Nil: no logging.
	Logger *slog.Logger

	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// A Verifier verifies tokens. A key is used only with the algorithms of its
// type, whatever the token names, so that a public key is never used as an HMAC
// secret. A Verifier is safe for concurrent use.
type Verifier struct {
	parser  *jwt.Parser
	keys    atomic.Pointer[Keys]
	options Options

	logged [len(loggedClaims)]atomic.Int64 // when, in Unix nanoseconds
}

// New returns a verifier. It fails if there are no keys.
func New(o Options) (*Verifier, error) {
	if len(o.Keys) == 0 {
		return nil, errors.New("no keys to verify tokens with")
	}
	options := []jwt.ParserOption{
		jwt.WithExpirationRequired(), jwt.WithLeeway(Leeway), jwt.WithStrictDecoding(), jwt.WithJSONNumber(), jwt.WithValidMethods(allMethods),
	}
	if o.Issuer != "" {
		options = append(options, jwt.WithIssuer(o.Issuer))
	}
	if o.Audience != "" {
		options = append(options, jwt.WithAudience(o.Audience))
	}
	if o.Now != nil {
		options = append(options, jwt.WithTimeFunc(o.Now))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	v := &Verifier{parser: jwt.NewParser(options...), options: o}
	v.SetKeys(o.Keys)
	return v, nil
}

// SetKeys replaces the keys. Requests that are already being verified may still use
// the previous ones.
func (v *Verifier) SetKeys(keys Keys) { v.keys.Store(&keys) }

// Claims returns the claims of a valid token. The error is an [*Error].
func (v *Verifier) Claims(token string) (jwt.MapClaims, error) {
	if len(token) > MaxTokenBytes {
		return nil, invalid("The token is not valid: it must have at most %d bytes.", MaxTokenBytes)
	}
	claims := jwt.MapClaims{}
	keys := v.keys.Load()
	_, err := v.parser.ParseWithClaims(token, claims, keys.find)
	switch {
	case err == nil:
		return claims, nil
	case errors.Is(err, jwt.ErrTokenMalformed):
		return nil, invalid("The token is not valid: it must be a signed JWT.")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return nil, invalid("The token is not valid: it must be signed by a key that is known here, with %s.", keys.algorithms())
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, &Error{Message: "The token has expired.", Expired: true}
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return nil, invalid("The token is not valid yet.")
	}
	return nil, v.invalidClaim(claims)
}

// invalidClaim returns the error for the claims of a token whose signature is valid, and
// logs it: whoever signs the tokens must know.
func (v *Verifier) invalidClaim(claims jwt.MapClaims) error {
	claim, want := v.wrongClaim(claims)
	value, has := claims[claim]
	if claim == "exp" && value == nil {
		if v.mayLog(claim) {
			v.options.Logger.Warn("a token with a valid signature has no exp and is rejected: tokens must expire")
		}
		return invalid("The token is not valid: it has no exp, the time at which it expires.")
	}
	got := "none"
	if has {
		got = shownClaim(value)
	}
	if v.mayLog(claim) {
		v.options.Logger.Warn("a token with a valid signature is rejected", "claim", claim, "want", want, "got", got)
	}
	return invalid("The token is not valid: its %s must %s, got %s.", claim, want, got)
}

// wrongClaim returns the claim for which a token is rejected, and what it must do.
func (v *Verifier) wrongClaim(claims jwt.MapClaims) (claim, want string) {
	const number = "be a number of seconds since 1970"
	if exp, err := claims.GetExpirationTime(); err != nil || exp == nil {
		return "exp", number
	}
	if _, err := claims.GetNotBefore(); err != nil {
		return "nbf", number
	}
	if iss, err := claims.GetIssuer(); v.options.Issuer != "" && (err != nil || iss != v.options.Issuer) {
		return "iss", "be " + shown.Quote(v.options.Issuer)
	}
	if aud, err := claims.GetAudience(); v.options.Audience != "" && (err != nil || !slices.Contains(aud, v.options.Audience)) {
		return "aud", "contain " + shown.Quote(v.options.Audience)
	}
	return "iat", number
}

// shownClaim returns a claim as a short text for messages.
func shownClaim(value any) string {
	if text, ok := value.(string); ok {
		return shown.Quote(text)
	}
	text, err := json.Marshal(value)
	if err != nil { // does not happen: it was JSON
		return "no JSON"
	}
	return shown.Shorten(string(text), shown.MaxShown)
}

// loggedClaims are the claims that invalidClaim logs.
var loggedClaims = [...]string{"exp", "nbf", "iat", "iss", "aud"}

// mayLog reports whether a token that is rejected for a claim is logged: the first one of
// each minute.
func (v *Verifier) mayLog(claim string) bool {
	logged := &v.logged[slices.Index(loggedClaims[:], claim)]
	now, last := time.Now().UnixNano(), logged.Load()
	return (last == 0 || now-last >= int64(time.Minute)) && logged.CompareAndSwap(last, now)
}

// algorithms returns the algorithms of the keys, for messages.
func (keys *Keys) algorithms() string {
	var all []string
	for _, k := range *keys {
		for _, m := range k.methods {
			if !slices.Contains(all, m) {
				all = append(all, m)
			}
		}
	}
	return strings.Join(all, ", ")
}

// find returns the keys that may have signed a token: those with its algorithm and,
// if both have a key id, with its key id.
func (keys *Keys) find(t *jwt.Token) (any, error) {
	if _, critical := t.Header["crit"]; critical {
		return nil, errors.New("critical extensions are not supported")
	}
	kid, _ := t.Header["kid"].(string)
	var set jwt.VerificationKeySet
	for _, k := range *keys {
		if slices.Contains(k.methods, t.Method.Alg()) && (kid == "" || k.id == "" || k.id == kid) {
			set.Keys = append(set.Keys, k.key)
		}
	}
	if len(set.Keys) == 0 {
		return nil, errors.New("no key for the algorithm and key id of the token")
	}
	return set, nil
}
