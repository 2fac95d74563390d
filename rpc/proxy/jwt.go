// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	shown "github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

const (
	maxTokenBytes = 16 << 10
	jwtLeeway     = 30 * time.Second // tolerated clock skew
)

// JWTOptions configure a [JWTVerifier].
type JWTOptions struct {
	// Keys verify the signatures. At least one is required. See [ParseJWTKeys] and
	// [ParseJWTSecret].
	Keys JWTKeys
	// Issuer and Audience are the required iss and aud of tokens. Empty: any.
	Issuer, Audience string
	// Logger logs why tokens with a valid signature are rejected, each claim once a minute
	// at most. Nil: no logging.
	Logger *slog.Logger

	now func() time.Time // set by tests
}

// A JWTVerifier verifies tokens. A key is used only with the algorithms of its
// type, whatever the token names, so that a public key is never used as an HMAC
// secret. A JWTVerifier is safe for concurrent use.
type JWTVerifier struct {
	parser  *jwt.Parser
	keys    atomic.Pointer[JWTKeys]
	options JWTOptions

	logged [len(loggedClaims)]atomic.Int64 // when, in Unix nanoseconds
}

// NewJWTVerifier returns a verifier. It fails if there are no keys.
func NewJWTVerifier(o JWTOptions) (*JWTVerifier, error) {
	if len(o.Keys) == 0 {
		return nil, errors.New("no keys to verify tokens with")
	}
	options := []jwt.ParserOption{
		jwt.WithExpirationRequired(), jwt.WithLeeway(jwtLeeway), jwt.WithStrictDecoding(), jwt.WithJSONNumber(), jwt.WithValidMethods(jwtMethods),
	}
	if o.Issuer != "" {
		options = append(options, jwt.WithIssuer(o.Issuer))
	}
	if o.Audience != "" {
		options = append(options, jwt.WithAudience(o.Audience))
	}
	if o.now != nil {
		options = append(options, jwt.WithTimeFunc(o.now))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	v := &JWTVerifier{parser: jwt.NewParser(options...), options: o}
	v.SetKeys(o.Keys)
	return v, nil
}

// SetKeys replaces the keys. Requests that are already being verified may still use
// the previous ones.
func (v *JWTVerifier) SetKeys(keys JWTKeys) { v.keys.Store(&keys) }

// identity returns an identifier that takes the key from a claim.
func (v *JWTVerifier) identity(claim string, form IdentityForm) Identifier {
	return func(r *http.Request) (middleware.Identity, error) {
		token, err := credential(r.Header, "token", "The token is missing: send a JWT in Authorization: Bearer or X-Api-Key.")
		if err != nil {
			return middleware.Identity{}, err
		}
		claims, err := v.claims(token)
		if err != nil {
			return middleware.Identity{}, err
		}
		text, ok := claimText(claims[claim])
		if !ok {
			return middleware.Identity{}, unauthenticated("The token has no claim %s that is a string or a whole number.", claim)
		}
		key := form.key(text)
		if err := limiter.ValidateKey(key); err != nil {
			return middleware.Identity{}, unauthenticated("The claim %s of the token is not a valid key: %s%s.", claim, err, form.advice(text))
		}
		return middleware.Identity{Key: key}, nil
	}
}

// claimText returns a claim that is a string, or the digits of one that is a whole
// number. Numbers are never rounded.
func claimText(claim any) (string, bool) {
	switch v := claim.(type) {
	case string:
		return v, true
	case json.Number:
		digits := strings.TrimPrefix(v.String(), "-")
		return v.String(), v != "-0" && strings.Trim(digits, "0123456789") == ""
	}
	return "", false
}

// claims returns the claims of a valid token. The error says what was expected.
func (v *JWTVerifier) claims(token string) (jwt.MapClaims, error) {
	if len(token) > maxTokenBytes {
		return nil, unauthenticated("The token is not valid: it must have at most %d bytes.", maxTokenBytes)
	}
	claims := jwt.MapClaims{}
	keys := v.keys.Load()
	_, err := v.parser.ParseWithClaims(token, claims, keys.find)
	switch {
	case err == nil:
		return claims, nil
	case errors.Is(err, jwt.ErrTokenMalformed):
		return nil, unauthenticated("The token is not valid: it must be a signed JWT.")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return nil, unauthenticated("The token is not valid: it must be signed by a key that this proxy knows, with %s.", keys.algorithms())
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, unauthenticated("The token has expired.")
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return nil, unauthenticated("The token is not valid yet.")
	}
	return nil, v.invalidClaim(claims)
}

// invalidClaim returns the error for the claims of a token whose signature is valid, and
// logs it: whoever signs the tokens must know.
func (v *JWTVerifier) invalidClaim(claims jwt.MapClaims) error {
	claim, want := v.wrongClaim(claims)
	value, has := claims[claim]
	if claim == "exp" && value == nil {
		if v.mayLog(claim) {
			v.options.Logger.Warn("a token with a valid signature has no exp and is rejected: tokens must expire")
		}
		return unauthenticated("The token is not valid: it has no exp, the time at which it expires.")
	}
	got := "none"
	if has {
		got = shownClaim(value)
	}
	if v.mayLog(claim) {
		v.options.Logger.Warn("a token with a valid signature is rejected", "claim", claim, "want", want, "got", got)
	}
	return unauthenticated("The token is not valid: its %s must %s, got %s.", claim, want, got)
}

// wrongClaim returns the claim for which a token is rejected, and what it must do.
func (v *JWTVerifier) wrongClaim(claims jwt.MapClaims) (claim, want string) {
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
func (v *JWTVerifier) mayLog(claim string) bool {
	logged := &v.logged[slices.Index(loggedClaims[:], claim)]
	now, last := time.Now().UnixNano(), logged.Load()
	return (last == 0 || now-last >= int64(time.Minute)) && logged.CompareAndSwap(last, now)
}

// algorithms returns the algorithms of the keys, for messages.
func (keys *JWTKeys) algorithms() string {
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
func (keys *JWTKeys) find(t *jwt.Token) (any, error) {
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
