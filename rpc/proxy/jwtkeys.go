// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// JWTKeys are what tokens may be signed with.
type JWTKeys []jwtKey

type jwtKey struct {
	id      string // "": any
	methods []string
	key     jwt.VerificationKey
}

// jwtMethods are all that there are for the keys below.
var jwtMethods = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256"}

const (
	minRSABits    = 2048
	minJWTSecret  = 32 // bytes, as RFC 7518 wants for HS256
	maxJWTKeys    = 64
	jwtKeyAdvice  = "must be a public key in PEM, or a JWKS"
	jwtPrivateKey = "has a private key: give the public one, which is all that is needed"
)

// ParseJWTSecret makes the key of HS256 out of the content of a file. A line end
// does not count.
func ParseJWTSecret(text []byte) (JWTKeys, error) {
	secret := bytes.TrimRight(text, "\r\n")
	if len(secret) < minJWTSecret {
		return nil, fmt.Errorf("must have at least %d bytes, got %d; make one with: openssl rand -hex 32", minJWTSecret, len(secret))
	}
	return JWTKeys{{methods: []string{"HS256"}, key: slices.Clone(secret)}}, nil
}

// ParseJWTKeys reads public keys: PEM blocks, or a JSON Web Key Set. Secrets and
// private keys are refused.
func ParseJWTKeys(text []byte) (JWTKeys, error) {
	text = bytes.TrimSpace(text)
	parse := parsePEM
	if bytes.HasPrefix(text, []byte("{")) {
		parse = parseJWKS
	}
	keys, err := parse(text)
	switch {
	case err != nil:
		return nil, err
	case len(keys) == 0:
		return nil, errors.New(jwtKeyAdvice)
	case len(keys) > maxJWTKeys:
		return nil, fmt.Errorf("must have at most %d keys, got %d", maxJWTKeys, len(keys))
	}
	return keys, nil
}

func parsePEM(text []byte) (keys JWTKeys, err error) {
	for len(text) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New(jwtKeyAdvice)
		}
		text = bytes.TrimSpace(rest)
		var public any
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, errors.New(jwtPrivateKey)
		case block.Type == "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", jwtKeyAdvice, err)
			}
			public = cert.PublicKey
		case block.Type == "RSA PUBLIC KEY":
			public, err = x509.ParsePKCS1PublicKey(block.Bytes)
		default:
			public, err = x509.ParsePKIXPublicKey(block.Bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", jwtKeyAdvice, err)
		}
		k, err := publicKey(public)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// publicKey pairs a key with the algorithms that it is for.
func publicKey(public any) (jwtKey, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return jwtKey{}, fmt.Errorf("an RSA key must have at least %d bits, got %d", minRSABits, k.N.BitLen())
		}
		return jwtKey{key: k, methods: []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}}, nil
	case *ecdsa.PublicKey:
		methods := map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384", elliptic.P521(): "ES512"}
		if m, ok := methods[k.Curve]; ok {
			return jwtKey{key: k, methods: []string{m}}, nil
		}
	case ed25519.PublicKey:
		return jwtKey{key: k, methods: []string{"EdDSA"}}, nil
	}
	return jwtKey{}, fmt.Errorf("must be a key of RSA, of ECDSA on P-256, P-384 or P-521, or of Ed25519, got %T", public)
}

// jwk is a key of a JWKS, as far as it is needed.
type jwk struct {
	Kty, Kid, Use, Alg, Crv string
	N, E, X, Y              string
	D, K                    json.RawMessage // private
	KeyOps                  []string        `json:"key_ops"`
}

func parseJWKS(text []byte) (keys JWTKeys, err error) {
	var set struct{ Keys []jwk }
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("is not a JWKS: it is not the JSON of one") // the error may show a part of it
	}
	for i, k := range set.Keys {
		if k.Use != "" && k.Use != "sig" || len(k.KeyOps) > 0 && !slices.Contains(k.KeyOps, "verify") {
			continue // for something else
		}
		key, err := k.parse()
		if err != nil {
			return nil, fmt.Errorf("key %d of the JWKS: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (k *jwk) parse() (jwtKey, error) {
	if k.D != nil || k.K != nil || k.Kty == "oct" {
		return jwtKey{}, errors.New(jwtPrivateKey)
	}
	public, err := k.public()
	if err != nil {
		return jwtKey{}, err
	}
	key, err := publicKey(public)
	if err != nil {
		return jwtKey{}, err
	}
	key.id = k.Kid
	if k.Alg != "" {
		if !slices.Contains(key.methods, k.Alg) {
			return jwtKey{}, fmt.Errorf("alg %q is not one of its kind, %s", k.Alg, strings.Join(key.methods, ", "))
		}
		key.methods = []string{k.Alg}
	}
	return key, nil
}

func (k *jwk) public() (any, error) {
	switch k.Kty {
	case "RSA":
		n, err1 := decode(k.N)
		e, err2 := decode(k.E)
		exponent := new(big.Int).SetBytes(e)
		if err1 != nil || err2 != nil || len(n) == 0 || !exponent.IsInt64() || exponent.Int64() < 3 || exponent.Int64() > 1<<31-1 {
			return nil, errors.New("n and e are not those of an RSA key")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}, nil
	case "EC":
		curve, ok := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Crv]
		if !ok {
			return nil, fmt.Errorf("crv must be P-256, P-384 or P-521, got %q", k.Crv)
		}
		x, err1 := decode(k.X)
		y, err2 := decode(k.Y)
		size := (curve.Params().BitSize + 7) / 8
		if err1 != nil || err2 != nil || len(x) != size || len(y) != size {
			return nil, errors.New("x and y are not those of a key of this curve")
		}
		return ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	case "OKP":
		x, err := decode(k.X)
		if k.Crv != "Ed25519" || err != nil || len(x) != ed25519.PublicKeySize {
			return nil, errors.New("must be a key of Ed25519")
		}
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("kty must be RSA, EC or OKP, got %q", k.Kty)
}

func decode(text string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(text) }
