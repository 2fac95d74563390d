// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/jwtverify"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// An Identifier returns who pays for a request. It must be safe for concurrent use.
// Its errors are sent to the caller and must not contain the credential.
type Identifier func(*http.Request) (middleware.Identity, error)

// IdentityOptions are the dependencies of [ParseIdentity].
type IdentityOptions struct {
	// Policy returns the current policy. "bearer" requires it and uses its api_keys.
	Policy func() *policy.Policy
	// JWT verifies tokens. "jwt:CLAIM" requires it.
	JWT *jwtverify.Verifier
	// Form says how the text of a header or a claim becomes a key.
	Form IdentityForm
}

// IdentityForm says how the text that identifies a caller becomes a key.
type IdentityForm uint8

const (
	// Path takes the text as a key: slashes separate its segments.
	Path IdentityForm = iota
	// Segment makes the text one segment, such as that of a URL. A slash becomes %2F, a
	// percent sign %25, and each byte of what is not printable UTF-8 is escaped likewise.
	// Different texts have different keys, and [url.PathUnescape] returns the text.
	Segment
)

// ParseIdentityForm parses "path" or "segment".
func ParseIdentityForm(text string) (IdentityForm, error) {
	switch text {
	case "path":
		return Path, nil
	case "segment":
		return Segment, nil
	}
	return 0, fmt.Errorf("must be path or segment, got %q", text)
}

// key returns the key of a text.
func (f IdentityForm) key(text string) string {
	if f == Path {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		c, size := utf8.DecodeRuneInString(text[i:])
		if c == '/' || c == '%' || c == utf8.RuneError && size == 1 || !unicode.IsPrint(c) {
			for _, escaped := range []byte(text[i : i+size]) {
				fmt.Fprintf(&b, "%%%02X", escaped)
			}
		} else {
			b.WriteString(text[i : i+size])
		}
		i += size
	}
	return b.String()
}

// advice is the end of the message about a text that is not a valid key.
func (f IdentityForm) advice(text string) string {
	if f == Path && strings.Contains(text, "/") {
		return "; the identity form segment takes it as one segment"
	}
	return ""
}

// ParseIdentity returns the identifier that text names:
//
//   - bearer: an API key in Authorization: Bearer or X-Api-Key, looked up in the
//     api_keys of the policy
//   - header:NAME: the header contains the key. It is trusted, so only a gateway that
//     sets it may reach the proxy
//   - jwt:CLAIM: a claim of a signed token in Authorization: Bearer or X-Api-Key
//     contains the key
func ParseIdentity(text string, o IdentityOptions) (Identifier, error) {
	kind, argument, _ := strings.Cut(text, ":")
	switch {
	case text == "bearer" && o.Policy == nil:
		return nil, errors.New("bearer needs a policy with api_keys")
	case text == "bearer":
		return o.bearer, nil
	case kind == "header" && isToken(argument):
		return headerIdentity(textproto.CanonicalMIMEHeaderKey(argument), o.Form), nil
	case kind == "jwt" && argument != "" && o.JWT == nil:
		return nil, errors.New("jwt needs jwt_keys or jwt_secret_file")
	case kind == "jwt" && argument != "":
		return jwtIdentity(o.JWT, argument, o.Form), nil
	case text == "":
		return nil, errors.New("must be bearer, header:NAME or jwt:CLAIM; there is no default")
	}
	return nil, fmt.Errorf("must be bearer, header:NAME or jwt:CLAIM, got %q", text)
}

// isToken reports whether s is a valid header name.
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
	apiKey, err := credential(r.Header, "API key", "The API key is missing: send it in Authorization: Bearer or X-Api-Key.")
	if err != nil {
		return middleware.Identity{}, err
	}
	key, tier, ok := o.Policy().APIKeyOwner(apiKey)
	if !ok {
		return middleware.Identity{}, unauthenticated("The API key is unknown.")
	}
	return middleware.Identity{Key: key, Tier: tier}, nil
}

// credential returns the API key or token of a request, which kind names. Two different
// ones are an error, because the upstream might use the other one.
func credential(h http.Header, kind, missing string) (string, error) {
	var found []string
	for _, v := range h.Values("Authorization") {
		scheme, token, _ := strings.Cut(v, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "", unauthenticated("Authorization must be a Bearer token.")
		}
		found = append(found, strings.TrimSpace(token))
	}
	found = append(found, h.Values("X-Api-Key")...)
	if len(found) == 0 || found[0] == "" {
		return "", unauthenticatedError(missing)
	}
	for _, other := range found[1:] {
		if other != found[0] {
			return "", unauthenticated("The request has more than one %s.", kind)
		}
	}
	return found[0], nil
}

func headerIdentity(name string, form IdentityForm) Identifier {
	return func(r *http.Request) (middleware.Identity, error) {
		values := r.Header.Values(name)
		switch {
		case len(values) == 0 || len(values) == 1 && values[0] == "":
			return middleware.Identity{}, unauthenticated("The header %s, which identifies the caller, is missing.", name)
		case len(values) > 1:
			return middleware.Identity{}, badRequest("The header %s occurs more than once.", name)
		}
		key := form.key(values[0])
		if err := limiter.ValidateKey(key); err != nil {
			return middleware.Identity{}, badRequest("The header %s is not a valid key: %s%s.", name, err, form.advice(values[0]))
		}
		return middleware.Identity{Key: key}, nil
	}
}

// unauthenticatedError is the message of a 401.
type unauthenticatedError string

func (e unauthenticatedError) Error() string { return string(e) }

func unauthenticated(format string, args ...any) error {
	return unauthenticatedError(fmt.Sprintf(format, args...))
}

func badRequest(format string, args ...any) error {
	return &middleware.StatusError{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}
