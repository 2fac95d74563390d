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

// The bounds of a token.
const (
	maxToken  = 16 << 10
	jwtLeeway = 30 * time.Second // for clocks that differ
)

// JWTOptions say which tokens are good.
type JWTOptions struct {
	// Keys are what tokens are signed with: see [ParseJWTKeys] and
	// [ParseJWTSecret].
	Keys JWTKeys
	// Issuer and Audience must be those of a token, unless they are empty.
	Issuer, Audience string

	now func() time.Time // of tests
}

// JWTVerifier checks tokens. A key verifies with the algorithms of its own kind
// only, whatever a token says: a public key is never taken for a secret.
type JWTVerifier struct {
	parser *jwt.Parser
	keys   atomic.Pointer[JWTKeys]
}

// NewJWTVerifier returns a verifier, or says that there are no keys.
func NewJWTVerifier(o JWTOptions) (*JWTVerifier, error) {
	if len(o.Keys) == 0 {
		return nil, errors.New("there is no key that tokens could be signed with")
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

// SetKeys replaces the keys.
func (v *JWTVerifier) SetKeys(keys JWTKeys) { v.keys.Store(&keys) }

const errBadToken = stranger("The token is not valid.")

// identity takes the key from a claim.
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
			return middleware.Identity{}, unknown("The token has no claim %s that is a text.", claim)
		}
		if err := limiter.ValidateKey(key); err != nil {
			return middleware.Identity{}, unknown("The claim %s of the token is no key: %s.", claim, err)
		}
		return middleware.Identity{Key: key}, nil
	}
}

// claims returns those of a token that is good.
func (v *JWTVerifier) claims(token string) (jwt.MapClaims, error) {
	if len(token) > maxToken {
		return nil, errBadToken
	}
	claims := jwt.MapClaims{}
	_, err := v.parser.ParseWithClaims(token, claims, v.keys.Load().find)
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, unknown("The token has expired.")
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return nil, unknown("The token is not valid yet.")
	case err != nil:
		return nil, errBadToken
	}
	return claims, nil
}

// find returns the keys that may have signed a token: those of its algorithm,
// and of its key id if both name one.
func (keys *JWTKeys) find(t *jwt.Token) (any, error) {
	if _, critical := t.Header["crit"]; critical {
		return nil, errors.New("extensions that must be understood are not")
	}
	kid, _ := t.Header["kid"].(string)
	var set jwt.VerificationKeySet
	for _, k := range *keys {
		if slices.Contains(k.methods, t.Method.Alg()) && (kid == "" || k.id == "" || k.id == kid) {
			set.Keys = append(set.Keys, k.key)
		}
	}
	if len(set.Keys) == 0 {
		return nil, errors.New("no key")
	}
	return set, nil
}
