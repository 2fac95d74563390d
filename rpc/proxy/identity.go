// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// An Identifier says who calls. It is safe for concurrent use. Its errors are
// for the caller, and have nothing of the credential.
type Identifier func(*http.Request) (middleware.Identity, error)

// IdentityOptions are what the ways to identify a caller need.
type IdentityOptions struct {
	// Policy returns the policy in force, whose api_keys "bearer" looks up.
	Policy func() *policy.Policy
	// JWT checks the tokens of "jwt:CLAIM".
	JWT *JWTVerifier
}

// ParseIdentity reads how callers are identified:
//
//   - bearer: by an API key, in Authorization: Bearer or in X-Api-Key, that the
//     policy has under api_keys
//   - header:NAME: the value of the header is the key. It is believed, so nobody
//     but a gateway that sets it may reach the proxy
//   - jwt:CLAIM: the claim of a signed token in Authorization: Bearer is the key
func ParseIdentity(text string, o IdentityOptions) (Identifier, error) {
	kind, argument, _ := strings.Cut(text, ":")
	switch {
	case text == "bearer" && o.Policy == nil:
		return nil, errors.New("bearer needs a policy")
	case text == "bearer":
		return o.bearer, nil
	case kind == "header" && isToken(argument):
		return headerIdentity(textproto.CanonicalMIMEHeaderKey(argument)), nil
	case kind == "jwt" && argument != "" && o.JWT == nil:
		return nil, errors.New("jwt needs a file of keys or a secret that tokens are signed with")
	case kind == "jwt" && argument != "":
		return o.JWT.identity(argument), nil
	case text == "":
		return nil, errors.New("must be bearer, header:NAME or jwt:CLAIM: nobody is trusted by default")
	}
	return nil, fmt.Errorf("must be bearer, header:NAME or jwt:CLAIM, got %q", text)
}

// isToken reports whether s can be the name of a header.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c > '~' || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

func (o IdentityOptions) bearer(r *http.Request) (middleware.Identity, error) {
	apiKey, err := credential(r.Header)
	if err != nil {
		return middleware.Identity{}, err
	}
	key, tier, ok := o.Policy().APIKeyOwner(apiKey)
	if !ok {
		return middleware.Identity{}, unknown("The API key is not known.")
	}
	return middleware.Identity{Key: key, Tier: tier}, nil
}

// credential returns the API key or the token of a request. Two that differ
// are refused: the upstream might go by the other one.
func credential(h http.Header) (string, error) {
	var found []string
	for _, v := range h.Values("Authorization") {
		scheme, token, _ := strings.Cut(v, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "", unknown("Authorization must be a Bearer token.")
		}
		found = append(found, strings.TrimSpace(token))
	}
	found = append(found, h.Values("X-Api-Key")...)
	if len(found) == 0 || found[0] == "" {
		return "", unknown("There is no API key: send it as Authorization: Bearer, or as X-Api-Key.")
	}
	for _, other := range found[1:] {
		if other != found[0] {
			return "", unknown("There is more than one API key.")
		}
	}
	return found[0], nil
}

func headerIdentity(name string) Identifier {
	return func(r *http.Request) (middleware.Identity, error) {
		values := r.Header.Values(name)
		switch {
		case len(values) == 0 || len(values) == 1 && values[0] == "":
			return middleware.Identity{}, unknown("The header %s, which says who calls, is missing.", name)
		case len(values) > 1:
			return middleware.Identity{}, badIdentity("The header %s is there more than once.", name)
		}
		if err := limiter.ValidateKey(values[0]); err != nil {
			return middleware.Identity{}, badIdentity("The header %s is no key: %s.", name, err)
		}
		return middleware.Identity{Key: values[0]}, nil
	}
}

// stranger is a caller that is not known; it says why, to him.
type stranger string

func (s stranger) Error() string { return string(s) }

func unknown(format string, args ...any) error { return stranger(fmt.Sprintf(format, args...)) }

func badIdentity(format string, args ...any) error {
	return &middleware.StatusError{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}
