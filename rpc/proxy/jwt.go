// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

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

	now func() time.Time // set by tests
}

// A JWTVerifier verifies tokens. A key is used only with the algorithms of its
// type, whatever the token names, so that a public key is never used as an HMAC
// secret. A JWTVerifier is safe for concurrent use.
type JWTVerifier struct {
	parser *jwt.Parser
	keys   atomic.Pointer[JWTKeys]
}

// NewJWTVerifier returns a verifier. It fails if there are no keys.
func NewJWTVerifier(o JWTOptions) (*JWTVerifier, error) {
	if len(o.Keys) == 0 {
		return nil, errors.New("no keys to verify tokens with")
	}
	options := []jwt.ParserOption{
		jwt.WithExpirationRequired(), jwt.WithLeeway(jwtLeeway), jwt.WithStrictDecoding(), jwt.WithValidMethods(jwtMethods),
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
	v := &JWTVerifier{parser: jwt.NewParser(options...)}
	v.SetKeys(o.Keys)
	return v, nil
}

// SetKeys replaces the keys. Requests that are already being verified may still use
// the previous ones.
func (v *JWTVerifier) SetKeys(keys JWTKeys) { v.keys.Store(&keys) }

const errBadToken = unauthenticatedError("The token is not valid.")

// identity returns an identifier that takes the key from a claim.
func (v *JWTVerifier) identity(claim string) Identifier {
	return func(r *http.Request) (middleware.Identity, error) {
		token, err := credential(r.Header)
		if err != nil {
			return middleware.Identity{}, err
		}
		claims, err := v.claims(token)
		if err != nil {
			return middleware.Identity{}, err
		}
		key, ok := claims[claim].(string)
		if !ok {
			return middleware.Identity{}, unauthenticated("The token has no claim %s that is a string.", claim)
		}
		if err := limiter.ValidateKey(key); err != nil {
			return middleware.Identity{}, unauthenticated("The claim %s of the token is not a valid key: %s.", claim, err)
		}
		return middleware.Identity{Key: key}, nil
	}
}

// claims returns the claims of a valid token.
func (v *JWTVerifier) claims(token string) (jwt.MapClaims, error) {
	if len(token) > maxTokenBytes {
		return nil, errBadToken
	}
	claims := jwt.MapClaims{}
	_, err := v.parser.ParseWithClaims(token, claims, v.keys.Load().find)
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, unauthenticated("The token has expired.")
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return nil, unauthenticated("The token is not valid yet.")
	case err != nil:
		return nil, errBadToken
	}
	return claims, nil
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
