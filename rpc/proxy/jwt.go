// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/bucketring/bucketring/internal/jwtverify"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// jwtIdentity returns an identifier that takes the key from a claim.
func jwtIdentity(v *jwtverify.Verifier, claim string, form IdentityForm) Identifier {
	return func(r *http.Request) (middleware.Identity, error) {
		token, err := credential(r.Header, "token", "The token is missing: send a JWT in Authorization: Bearer or X-Api-Key.")
		if err != nil {
			return middleware.Identity{}, err
		}
		claims, err := v.Claims(token)
		if err != nil {
			return middleware.Identity{}, unauthenticatedError(err.Error())
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
