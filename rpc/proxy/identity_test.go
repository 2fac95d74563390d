// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/bucketring/bucketring/internal/jwtverify"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// who returns "key tier", or the status and the message of an error.
func who(identify Identifier, headers ...string) string {
	r := &http.Request{Header: http.Header{}}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	id, err := identify(r)
	var own *middleware.StatusError
	switch {
	case errors.As(err, &own):
		return fmt.Sprint(own.Status, " ", own.Message)
	case err != nil:
		return "401 " + err.Error()
	}
	return strings.TrimSpace(id.Key + " " + id.Tier)
}

func TestParseIdentity(t *testing.T) {
	for _, bad := range []string{"", "none", "Bearer", "bearer", "bearer:x", "header", "header:", "header:a b", "header:a:b", "jwt", "jwt:", "jwt:sub"} {
		if _, err := ParseIdentity(bad, IdentityOptions{}); err == nil {
			t.Errorf("ParseIdentity(%q) = nil, want an error", bad)
		}
	}
}

func TestBearer(t *testing.T) {
	text := fmt.Sprintf("tiers: { gold: {} }\ndefault_tier: gold\napi_keys: [{ hash: %q, key: a/b, tier: gold }]", policy.HashAPIKey("sk-a"))
	known, err := policy.Parse("p", []byte(text), limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	identify, err := ParseIdentity("bearer", IdentityOptions{Policy: func() *policy.Policy { return known }})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		headers []string
		want    string
	}{
		{[]string{"Authorization", "Bearer sk-a"}, "a/b gold"},
		{[]string{"Authorization", "bearer  sk-a "}, "a/b gold"},
		{[]string{"X-Api-Key", "sk-a"}, "a/b gold"},
		{[]string{"X-Api-Key", "sk-a", "Authorization", "Bearer sk-a"}, "a/b gold"},
		{[]string{"X-Api-Key", "sk-a", "Authorization", "Bearer sk-b"}, "401 The request has more than one API key."},
		{[]string{"Authorization", "Bearer sk-a", "Authorization", "Bearer sk-b"}, "401 The request has more than one API key."},
		{[]string{"Authorization", "Basic sk-a"}, "401 Authorization must be a Bearer token."},
		{[]string{"Authorization", "Bearer "}, "401 The API key is missing"},
		{[]string{"Authorization", "sk-a"}, "401 Authorization must be"},
		{[]string{"X-Api-Key", "sk-b"}, "401 The API key is unknown."},
		{nil, "401 The API key is missing"},
	} {
		if got := who(identify, test.headers...); !strings.HasPrefix(got, test.want) || strings.Contains(got, "sk-") {
			t.Errorf("%q = %q, want %q", test.headers, got, test.want)
		}
	}
}

func TestHeader(t *testing.T) {
	identify, err := ParseIdentity("header:x-tenant", IdentityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"acme/alice":             "acme/alice",
		"zoë/naïve 1":            "zoë/naïve 1",
		"a/b/c/d":                "a/b/c/d",
		strings.Repeat("x", 256): strings.Repeat("x", 256),
		"":                       "401 The header X-Tenant, which identifies the caller, is missing.",
		"a/b/c/d/e":              "400 The header X-Tenant is not a valid key: must have at most 4 segments; the identity form segment takes it as one segment.",
		"a//b":                   "400 The header X-Tenant is not a valid key: segments must not be empty; the identity form segment takes it as one segment.",
		"a\tb":                   "400 The header X-Tenant is not a valid key: must be printable.",
		"a\x7fb":                 "400 The header X-Tenant is not a valid key: must be printable.",
		"a\xffb":                 "400 The header X-Tenant is not a valid key: must be valid UTF-8.",
		"a\u202eb":               "400 The header X-Tenant is not a valid key: must be printable.",
		strings.Repeat("x", 257): "400 The header X-Tenant is not a valid key: must be at most 256 bytes.",
	} {
		if got := who(identify, "X-Tenant", value); got != want {
			t.Errorf("%.20q = %q, want %q", value, got, want)
		}
	}
	if got := who(identify); !strings.HasPrefix(got, "401 ") {
		t.Errorf("no header = %q, want 401", got)
	}
	if got := who(identify, "X-Tenant", "a", "X-Tenant", "b"); !strings.HasPrefix(got, "400 ") {
		t.Errorf("two headers = %q, want 400", got)
	}
}

// signers are private keys of every kind, with their public keys.
type signers struct {
	rsa  *rsa.PrivateKey
	ec   *ecdsa.PrivateKey
	ed   ed25519.PrivateKey
	pem  []byte // of the RSA key
	jwks []byte // of all three, with ids r, e and d
}

func newSigners(t *testing.T) *signers {
	t.Helper()
	s := &signers{}
	var err1, err2, err3 error
	s.rsa, err1 = rsa.GenerateKey(rand.Reader, 2048)
	s.ec, err2 = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, s.ed, err3 = ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	s.pem = publicPEM(t, &s.rsa.PublicKey)
	point, err := s.ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	s.jwks, err = json.Marshal(map[string]any{"keys": []any{
		map[string]any{"kty": "RSA", "kid": "r", "use": "sig", "alg": "RS256", "n": b64(s.rsa.N.Bytes()), "e": "AQAB"},
		map[string]any{"kty": "EC", "kid": "e", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])},
		map[string]any{"kty": "OKP", "kid": "d", "crv": "Ed25519", "x": b64(s.ed.Public().(ed25519.PublicKey)), "key_ops": []string{"verify"}},
		map[string]any{"kty": "RSA", "kid": "enc", "use": "enc", "n": "AQAB", "e": "AQAB"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publicPEM(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// now is the time at which tokens are verified.
var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// token signs claims, changed by change (nil removes a claim), with extra headers.
func token(t *testing.T, method jwt.SigningMethod, key any, change map[string]any, header map[string]any) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": "acme/alice", "exp": now.Add(time.Minute).Unix(), "aud": "models", "iss": "https://issuer"}
	for name, v := range change {
		if claims[name] = v; v == nil {
			delete(claims, name)
		}
	}
	tok := jwt.NewWithClaims(method, claims)
	maps.Copy(tok.Header, header)
	text, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func verifierIdentity(t *testing.T, o jwtverify.Options) Identifier {
	t.Helper()
	o.Now = func() time.Time { return now }
	v, err := jwtverify.New(o)
	if err != nil {
		t.Fatal(err)
	}
	identify, err := ParseIdentity("jwt:sub", IdentityOptions{JWT: v})
	if err != nil {
		t.Fatal(err)
	}
	return identify
}

func TestJWT(t *testing.T) {
	s := newSigners(t)
	fromPEM, _, err := jwtverify.ParseKeys(s.pem)
	if err != nil {
		t.Fatal(err)
	}
	fromJWKS, _, err := jwtverify.ParseKeys(s.jwks)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte(strings.Repeat("k", 32))
	fromSecret, err := jwtverify.ParseSecret(append(secret, '\n'))
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rs, es, ed, hs := jwt.SigningMethodRS256, jwt.SigningMethodES256, jwt.SigningMethodEdDSA, jwt.SigningMethodHS256
	const good, bad = "acme/alice", "401 The token is not valid"
	const badKey = "401 The token is not valid: it must be signed by a key that is known here, with "
	none := jwt.UnsafeAllowNoneSignatureType
	for name, test := range map[string]struct {
		keys  jwtverify.Keys
		token string
		want  string
	}{
		"RSA by PEM":            {fromPEM, token(t, rs, s.rsa, nil, nil), good},
		"PSS by PEM":            {fromPEM, token(t, jwt.SigningMethodPS384, s.rsa, nil, nil), good},
		"RSA by JWKS":           {fromJWKS, token(t, rs, s.rsa, nil, map[string]any{"kid": "r"}), good},
		"without a kid":         {fromJWKS, token(t, rs, s.rsa, nil, nil), good},
		"EC by JWKS":            {fromJWKS, token(t, es, s.ec, nil, map[string]any{"kid": "e"}), good},
		"Ed25519 by JWKS":       {fromJWKS, token(t, ed, s.ed, nil, map[string]any{"kid": "d"}), good},
		"HS256":                 {fromSecret, token(t, hs, secret, nil, nil), good},
		"alg of the JWKS":       {fromJWKS, token(t, jwt.SigningMethodRS512, s.rsa, nil, map[string]any{"kid": "r"}), bad},
		"unknown kid":           {fromJWKS, token(t, rs, s.rsa, nil, map[string]any{"kid": "x"}), badKey + "RS256, ES256, EdDSA."},
		"other kid":             {fromJWKS, token(t, rs, s.rsa, nil, map[string]any{"kid": "e"}), bad},
		"other key":             {fromPEM, token(t, rs, other, nil, nil), badKey + "RS256, RS384, RS512, PS256, PS384, PS512."},
		"PEM as a secret":       {fromPEM, token(t, hs, s.pem, nil, nil), bad},
		"modulus as secret":     {fromPEM, token(t, hs, s.rsa.N.Bytes(), nil, nil), bad},
		"none":                  {fromPEM, token(t, jwt.SigningMethodNone, none, nil, nil), bad},
		"none by secret":        {fromSecret, token(t, jwt.SigningMethodNone, none, nil, nil), bad},
		"HS512":                 {fromSecret, token(t, jwt.SigningMethodHS512, secret, nil, nil), bad},
		"RSA for a secret":      {fromSecret, token(t, rs, s.rsa, nil, nil), bad},
		"crit":                  {fromPEM, token(t, rs, s.rsa, nil, map[string]any{"crit": []string{"b64"}, "b64": false}), bad},
		"own jwk":               {fromPEM, token(t, rs, other, nil, map[string]any{"jwk": map[string]any{"kty": "RSA"}, "jku": "http://x"}), bad},
		"expired":               {fromPEM, token(t, rs, s.rsa, map[string]any{"exp": now.Add(-time.Minute).Unix()}, nil), "401 The token has expired."},
		"no exp":                {fromPEM, token(t, rs, s.rsa, map[string]any{"exp": nil}, nil), "401 The token is not valid: it has no exp, the time at which it expires."},
		"exp is text":           {fromPEM, token(t, rs, s.rsa, map[string]any{"exp": "never"}, nil), "401 The token is not valid: its exp must be a number of seconds since 1970, got \"never\"."},
		"exp is a list":         {fromPEM, token(t, rs, s.rsa, map[string]any{"exp": []int{1}}, nil), "401 The token is not valid: its exp must be a number of seconds since 1970, got [1]."},
		"exp is null":           {fromPEM, token(t, rs, s.rsa, map[string]any{"exp": json.RawMessage("null")}, nil), "401 The token is not valid: it has no exp, the time at which it expires."},
		"nbf is text":           {fromPEM, token(t, rs, s.rsa, map[string]any{"nbf": "2026-11-28"}, nil), "401 The token is not valid: its nbf must be a number of seconds since 1970, got \"2026-11-28\"."},
		"nbf is null":           {fromPEM, token(t, rs, s.rsa, map[string]any{"nbf": json.RawMessage("null")}, nil), "401 The token is not valid: its nbf must be a number of seconds since 1970, got null."},
		"issuer is a list":      {fromPEM, token(t, rs, s.rsa, map[string]any{"iss": []string{"https://issuer"}}, nil), "401 The token is not valid: its iss must be \"https://issuer\", got [\"https://issuer\"]."},
		"issuer is null":        {fromPEM, token(t, rs, s.rsa, map[string]any{"iss": json.RawMessage("null")}, nil), "401 The token is not valid: its iss must be \"https://issuer\", got null."},
		"no issuer":             {fromPEM, token(t, rs, s.rsa, map[string]any{"iss": nil}, nil), "401 The token is not valid: its iss must be \"https://issuer\", got none."},
		"empty audience":        {fromPEM, token(t, rs, s.rsa, map[string]any{"aud": []string{}}, nil), "401 The token is not valid: its aud must contain \"models\", got []."},
		"audience is null":      {fromPEM, token(t, rs, s.rsa, map[string]any{"aud": json.RawMessage("null")}, nil), "401 The token is not valid: its aud must contain \"models\", got null."},
		"audience is a number":  {fromPEM, token(t, rs, s.rsa, map[string]any{"aud": 7}, nil), "401 The token is not valid: its aud must contain \"models\", got 7."},
		"audience is an object": {fromPEM, token(t, rs, s.rsa, map[string]any{"aud": map[string]any{"models": true}}, nil), "401 The token is not valid: its aud must contain \"models\", got {\"models\":true}."},
		"audience of numbers":   {fromPEM, token(t, rs, s.rsa, map[string]any{"aud": []any{"models", 7}}, nil), "401 The token is not valid: its aud must contain \"models\", got [\"models\",7]."},
		"many audiences":        {fromPEM, token(t, rs, s.rsa, map[string]any{"aud": slices.Repeat([]string{"other"}, 1000)}, nil), "401 The token is not valid: its aud must contain \"models\", got [\"other\","},
		"one of several":        {fromPEM, token(t, rs, s.rsa, map[string]any{"aud": []string{"other", "models"}}, nil), good},
		"not yet":               {fromPEM, token(t, rs, s.rsa, map[string]any{"nbf": now.Add(time.Minute).Unix()}, nil), "401 The token is not valid yet."},
		"wrong issuer":          {fromPEM, token(t, rs, s.rsa, map[string]any{"iss": "https://other"}, nil), "401 The token is not valid: its iss must be \"https://issuer\", got \"https://other\"."},
		"wrong audience":        {fromPEM, token(t, rs, s.rsa, map[string]any{"aud": []string{"a", "b"}}, nil), "401 The token is not valid: its aud must contain \"models\", got [\"a\",\"b\"]."},
		"no audience":           {fromPEM, token(t, rs, s.rsa, map[string]any{"aud": nil}, nil), "401 The token is not valid: its aud must contain \"models\", got none."},
		"no claim":              {fromPEM, token(t, rs, s.rsa, map[string]any{"sub": nil}, nil), "401 The token has no claim sub that is a string or a whole number."},
		"claim is a number":     {fromPEM, token(t, rs, s.rsa, map[string]any{"sub": json.Number("9007199254740993")}, nil), "9007199254740993"},
		"claim is a fraction":   {fromPEM, token(t, rs, s.rsa, map[string]any{"sub": json.Number("1.5")}, nil), "401 The token has no claim sub"},
		"claim is a power":      {fromPEM, token(t, rs, s.rsa, map[string]any{"sub": json.Number("1e3")}, nil), "401 The token has no claim sub"},
		"claim is -0":           {fromPEM, token(t, rs, s.rsa, map[string]any{"sub": json.Number("-0")}, nil), "401 The token has no claim sub"},
		"claim is true":         {fromPEM, token(t, rs, s.rsa, map[string]any{"sub": true}, nil), "401 The token has no claim sub"},
		"invalid key":           {fromPEM, token(t, rs, s.rsa, map[string]any{"sub": "a//b"}, nil), "401 The claim sub of the token is not a valid key: segments must not be empty; the identity form segment takes it as one segment."},
		"huge":                  {fromPEM, token(t, rs, s.rsa, map[string]any{"pad": strings.Repeat("x", jwtverify.MaxTokenBytes)}, nil), bad},
		"garbage":               {fromPEM, "a.b.c", "401 The token is not valid: it must be a signed JWT."},
		"many dots":             {fromPEM, strings.Repeat(".", 9000), bad},
	} {
		identify := verifierIdentity(t, jwtverify.Options{Keys: test.keys, Issuer: "https://issuer", Audience: "models"})
		if got := who(identify, "Authorization", "Bearer "+test.token); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s = %q, want %q", name, got, test.want)
		}
	}
}

func TestJWTKeysAreReplaced(t *testing.T) {
	s := newSigners(t)
	keys, _, err := jwtverify.ParseKeys(s.pem)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jwtverify.New(jwtverify.Options{Keys: keys, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	identify, old := jwtIdentity(v, "sub", Path), token(t, jwt.SigningMethodRS256, s.rsa, nil, nil)
	if got := who(identify, "Authorization", "Bearer "+old); got != "acme/alice" {
		t.Errorf("before = %q, want acme/alice", got)
	}
	other, _, err := jwtverify.ParseKeys(publicPEM(t, &s.ec.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	v.SetKeys(other)
	if got := who(identify, "Authorization", "Bearer "+old); !strings.HasPrefix(got, "401 The token is not valid") {
		t.Errorf("after = %q, want 401", got)
	}
}

func TestParseJWTKeysErrors(t *testing.T) {
	s := newSigners(t)
	weak, err := x509.ParsePKCS1PublicKey(weakRSA(t))
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(s.ed)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ text, want string }{
		"nothing":       {"", "must be public keys"},
		"text":          {"hello", "must be public keys"},
		"weak":          {string(publicPEM(t, weak)), "at least 2048 bits"},
		"P-224":         {string(publicPEM(t, &p224.PublicKey)), "must be an RSA"},
		"private":       {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), "private key"},
		"broken":        {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})), "must be public keys"},
		"rest":          {string(s.pem) + "rest", "must be public keys"},
		"no JSON":       {"{", "is not a JWKS"},
		"empty JWKS":    {`{"keys":[]}`, "must be public keys"},
		"secret":        {`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`, "private key"},
		"private JWK":   {`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}]}`, "private key"},
		"alg confusion": {`{"keys":[` + strings.Replace(keyOf(t, s.jwks, 0), `"RS256"`, `"HS256"`, 1) + `]}`, `alg "HS256" does not match the key`},
		"secret beside": {strings.Replace(string(s.jwks), `"keys":[`, `"keys":[{"kty":"oct","k":"c2VjcmV0"},`, 1), "private key"},
		"off the curve": {`{"keys":[{"kty":"EC","crv":"P-256","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"}]}`, "key 1"},
		"bad exponent":  {`{"keys":[{"kty":"RSA","n":"` + strings.Repeat("A", 400) + `","e":"AQ"}]}`, "n and e"},
	} {
		if _, _, err := jwtverify.ParseKeys([]byte(test.text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: ParseJWTKeys = %v, want %q", name, err, test.want)
		}
	}
	if _, err := jwtverify.ParseSecret([]byte("short\n")); err == nil || strings.Contains(err.Error(), "short") {
		t.Errorf("ParseJWTSecret(short) = %v, want an error without it", err)
	}
	if _, err := jwtverify.New(jwtverify.Options{}); err == nil {
		t.Error("NewJWTVerifier without keys = nil, want an error")
	}
}

// weakRSA returns the DER of an RSA public key with 1,024 bits.
func weakRSA(t *testing.T) []byte {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return x509.MarshalPKCS1PublicKey(&k.PublicKey)
}

// keyOf returns a key of a JWKS.
func keyOf(t *testing.T, jwks []byte, i int) string {
	t.Helper()
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(jwks, &set); err != nil {
		t.Fatal(err)
	}
	return string(set.Keys[i])
}

// Keys of kinds that are not known do not keep the others from being used.
func TestUnknownKeysAreSkipped(t *testing.T) {
	s := newSigners(t)
	for name, test := range map[string]struct{ key, want string }{
		"kty":       {`{"kty":"AKP","alg":"ML-DSA-44","pub":"AA","kid":"p"}`, `kty must be RSA, EC or OKP, got "AKP"`},
		"no kty":    {`{}`, "kty must be"},
		"curve":     {`{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}`, "crv must be"},
		"Ed448":     {`{"kty":"OKP","crv":"Ed448","x":"AA"}`, "Ed25519"},
		"use":       {`{"kty":"RSA","use":"tls","n":"AQAB","e":"AQAB"}`, `use must be sig, got "tls"`},
		"alg":       {strings.Replace(keyOf(t, s.jwks, 0), `"RS256"`, `"RS1"`, 1), `alg "RS1" does not match`},
		"weak":      {`{"kty":"RSA","n":"AQAB","e":"AQAB"}`, "2048 bits"},
		"types":     {`{"kty":"RSA","kid":7}`, "wrong type"},
		"no object": {`[1]`, "wrong type"},
	} {
		keys, skipped, err := jwtverify.ParseKeys([]byte(strings.Replace(string(s.jwks), `"keys":[`, `"keys":[`+test.key+",", 1)))
		if err != nil || len(keys) != 3 || len(skipped) != 1 || !strings.Contains(skipped[0].Error(), "key 1 of the JWKS: ") || !strings.Contains(skipped[0].Error(), test.want) {
			t.Errorf("%s: ParseJWTKeys = %d keys, %v, %v, want 3 and that key 1 is skipped: %s", name, len(keys), skipped, err, test.want)
		}
		if _, _, err := jwtverify.ParseKeys([]byte(`{"keys":[` + test.key + `]}`)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s alone: ParseJWTKeys = %v, want an error: %s", name, err, test.want)
		}
	}
}

// Whoever signs tokens with wrong claims learns what was expected and what came, once a
// minute for each claim.
func TestRejectedClaimsAreLogged(t *testing.T) {
	s := newSigners(t)
	keys, _, err := jwtverify.ParseKeys(s.pem)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	identify := verifierIdentity(t, jwtverify.Options{Keys: keys, Issuer: "https://issuer", Audience: "models", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 2 {
		for _, change := range []map[string]any{{"aud": []string{}}, {"aud": 7}, {"iss": []string{"a"}}, {"nbf": "soon"}, {"exp": true}} {
			who(identify, "Authorization", "Bearer "+token(t, jwt.SigningMethodRS256, s.rsa, change, nil))
		}
	}
	for _, want := range []string{
		`claim=aud want="contain \"models\"" got=[]`, `claim=iss want="be \"https://issuer\"" got="[\"a\"]"`,
		`claim=nbf want="be a number of seconds since 1970" got="\"soon\""`, `claim=exp want="be a number of seconds since 1970" got=true`,
	} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("log = %s\nwant one line with %s", log.String(), want)
		}
	}
	if got := strings.Count(log.String(), "\n"); got != 4 || strings.Contains(log.String(), "eyJ") {
		t.Errorf("logged %d lines, want one for each claim, without tokens:\n%s", got, log.String())
	}
}

// Whoever signs tokens without exp learns why they are rejected. A flood of them is
// logged once.
func TestTokensWithoutExpAreLogged(t *testing.T) {
	s := newSigners(t)
	keys, _, err := jwtverify.ParseKeys(s.pem)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	identify := verifierIdentity(t, jwtverify.Options{Keys: keys, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	who(identify, "Authorization", "Bearer "+token(t, jwt.SigningMethodRS256, other, map[string]any{"exp": nil}, nil))
	if log.Len() > 0 {
		t.Errorf("log = %s, want nothing for a token that anyone could have made", log.String())
	}
	for range 3 {
		who(identify, "Authorization", "Bearer "+token(t, jwt.SigningMethodRS256, s.rsa, map[string]any{"exp": nil}, nil))
	}
	if got := strings.Count(log.String(), "has no exp"); got != 1 || strings.Contains(log.String(), "eyJ") {
		t.Errorf("logged %d times, want once, without the token: %s", got, log.String())
	}
	if got := who(identify); !strings.HasPrefix(got, "401 The token is missing: send a JWT") {
		t.Errorf("no credential = %q, want that a token is missing", got)
	}
}

// Different texts have different keys of one segment, and the text can be read back.
func TestSegmentForm(t *testing.T) {
	identify, err := ParseIdentity("header:x-id", IdentityOptions{Form: Segment})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"spiffe://example.org/ns/x/sa/y": "spiffe:%2F%2Fexample.org%2Fns%2Fx%2Fsa%2Fy",
		"https://idp/users/42":           "https:%2F%2Fidp%2Fusers%2F42",
		"https:%2F%2Fidp%2Fusers%2F42":   "https:%252F%252Fidp%252Fusers%252F42",
		"a/b/c/d/e/f":                    "a%2Fb%2Fc%2Fd%2Fe%2Ff",
		"a//b/":                          "a%2F%2Fb%2F",
		"/":                              "%2F",
		"zoë 1":                          "zoë 1",
		"a\tb\x7f":                       "a%09b%7F",
		"a\xffb":                         "a%FFb",
		"a\u202eb":                       "a%E2%80%AEb",
		"42":                             "42",
		"":                               "401 The header X-Id, which identifies the caller, is missing.",
		strings.Repeat("/", 100):         "400 The header X-Id is not a valid key: must be at most 256 bytes.",
	} {
		got := who(identify, "X-Id", text)
		if got != want {
			t.Errorf("%q = %q, want %q", text, got, want)
		}
		if back, err := url.PathUnescape(got); got[0] != '4' && (err != nil || back != text) {
			t.Errorf("%q is read back as %q, %v", got, back, err)
		}
	}
}

// FuzzSegmentForm checks that the key of every text is one valid segment, from which the
// text can be read back.
func FuzzSegmentForm(f *testing.F) {
	for _, text := range []string{"spiffe://a/b", "%2F", "a\x00\xff", "zoë", "%", "\u202e"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key := Segment.key(text)
		if back, err := url.PathUnescape(key); err != nil || back != text {
			t.Errorf("%q became %q, which is read back as %q, %v", text, key, back, err)
		}
		if err := limiter.ValidateKey(key); text != "" && len(key) <= limiter.MaxKeyBytes && err != nil || strings.Contains(key, "/") {
			t.Errorf("%q became %q: %v, want one valid segment", text, key, err)
		}
	})
}
