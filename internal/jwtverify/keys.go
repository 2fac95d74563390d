// SPDX-License-Identifier: Apache-2.0

package jwtverify

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

	shown "github.com/bucketring/bucketring/internal/text"
)

// Keys are public keys or secrets that verify tokens.
type Keys []verifyingKey

type verifyingKey struct {
	id      string // kid; empty: any
	methods []string
	key     jwt.VerificationKey
}

// allMethods are the algorithms of all supported keys.
var allMethods = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256"}

const (
	minRSABits = 2048
	minSecret  = 32 // bytes; RFC 7518 requires it for HS256
	maxKeys    = 64
	keyAdvice  = "must be public keys in PEM or a JWKS"
	privateKey = "contains a private key: use the public key"
)

// ParseSecret returns the key for HS256 from the content of a file. Line ends at
// the end are ignored. The secret must have at least 32 bytes.
func ParseSecret(text []byte) (Keys, error) {
	secret := bytes.TrimRight(text, "\r\n")
	if len(secret) < minSecret {
		return nil, fmt.Errorf("must have at least %d bytes, got %d; make one with: openssl rand -hex 32", minSecret, len(secret))
	}
	return Keys{{methods: []string{"HS256"}, key: slices.Clone(secret)}}, nil
}

// ParseKeys parses 1 to 64 public keys: PEM blocks (public keys or certificates)
// or a JSON Web Key Set. RSA keys of at least 2,048 bits, ECDSA keys on P-256, P-384
// or P-521, and Ed25519 keys are supported. Private keys and secrets are errors.
//
// Other keys of a set are skipped (RFC 7517, section 5), and skipped says why, unless
// none is left.
func ParseKeys(text []byte) (keys Keys, skipped []error, err error) {
	text = bytes.TrimSpace(text)
	if bytes.HasPrefix(text, []byte("{")) {
		keys, skipped, err = parseJWKS(text)
	} else {
		keys, err = parsePEM(text)
	}
	switch {
	case err != nil:
		return nil, nil, err
	case len(keys) == 0 && len(skipped) > 0:
		return nil, nil, fmt.Errorf("has no key that can be used:\n%w", errors.Join(skipped...))
	case len(keys) == 0:
		return nil, nil, errors.New(keyAdvice)
	case len(keys) > maxKeys:
		return nil, nil, fmt.Errorf("must have at most %d keys, got %d", maxKeys, len(keys))
	}
	return keys, skipped, nil
}

func parsePEM(text []byte) (keys Keys, err error) {
	for len(text) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New(keyAdvice)
		}
		text = bytes.TrimSpace(rest)
		var public any
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, errors.New(privateKey)
		case block.Type == "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", keyAdvice, err)
			}
			public = cert.PublicKey
		case block.Type == "RSA PUBLIC KEY":
			public, err = x509.ParsePKCS1PublicKey(block.Bytes)
		default:
			public, err = x509.ParsePKIXPublicKey(block.Bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", keyAdvice, err)
		}
		k, err := publicKey(public)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// publicKey returns a key with its algorithms.
func publicKey(public any) (verifyingKey, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return verifyingKey{}, fmt.Errorf("an RSA key must have at least %d bits, got %d", minRSABits, k.N.BitLen())
		}
		return verifyingKey{key: k, methods: []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}}, nil
	case *ecdsa.PublicKey:
		methods := map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384", elliptic.P521(): "ES512"}
		if m, ok := methods[k.Curve]; ok {
			return verifyingKey{key: k, methods: []string{m}}, nil
		}
	case ed25519.PublicKey:
		return verifyingKey{key: k, methods: []string{"EdDSA"}}, nil
	}
	return verifyingKey{}, fmt.Errorf("must be an RSA, ECDSA (P-256, P-384 or P-521) or Ed25519 key, got %T", public)
}

// jwk has the supported fields of a key in a JWKS.
type jwk struct {
	Kty, Kid, Use, Alg, Crv string
	N, E, X, Y              string
	D, K                    json.RawMessage // private
	KeyOps                  []string        `json:"key_ops"`
}

func parseJWKS(text []byte) (keys Keys, skipped []error, err error) {
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, nil, errors.New("is not a JWKS: the JSON is invalid") // the error of Unmarshal may contain a part of a key
	}
	for i, text := range set.Keys {
		key, err := parseJWK(text)
		switch {
		case errors.Is(err, errPrivateKey):
			return nil, nil, fmt.Errorf("key %d of the JWKS: %w", i+1, err)
		case errors.Is(err, errOtherUse):
		case err != nil && len(skipped) < maxKeys:
			skipped = append(skipped, fmt.Errorf("key %d of the JWKS: %w", i+1, err))
		case err == nil:
			keys = append(keys, key)
		}
	}
	return keys, skipped, nil
}

var (
	errPrivateKey = errors.New(privateKey)
	errOtherUse   = errors.New("is not for signatures")
)

func parseJWK(text []byte) (verifyingKey, error) {
	var k jwk
	if err := json.Unmarshal(text, &k); err != nil {
		return verifyingKey{}, errors.New("is not a JWK: a member has the wrong type")
	}
	if k.isPrivate() {
		return verifyingKey{}, errPrivateKey
	}
	switch {
	case k.Use == "enc" || len(k.KeyOps) > 0 && !slices.Contains(k.KeyOps, "verify"):
		return verifyingKey{}, errOtherUse
	case k.Use != "" && k.Use != "sig":
		return verifyingKey{}, fmt.Errorf("use must be sig, got %s", shown.Quote(k.Use))
	}
	return k.parse()
}

func (k *jwk) isPrivate() bool { return k.D != nil || k.K != nil || k.Kty == "oct" }

func (k *jwk) parse() (verifyingKey, error) {
	public, err := k.public()
	if err != nil {
		return verifyingKey{}, err
	}
	key, err := publicKey(public)
	if err != nil {
		return verifyingKey{}, err
	}
	key.id = k.Kid
	if k.Alg != "" {
		if !slices.Contains(key.methods, k.Alg) {
			return verifyingKey{}, fmt.Errorf("alg %s does not match the key: must be one of %s", shown.Quote(k.Alg), strings.Join(key.methods, ", "))
		}
		key.methods = []string{k.Alg}
	}
	return key, nil
}

func (k *jwk) public() (any, error) {
	switch k.Kty {
	case "RSA":
		n, err1 := decodeBase64(k.N)
		e, err2 := decodeBase64(k.E)
		exponent := new(big.Int).SetBytes(e)
		if err1 != nil || err2 != nil || len(n) == 0 || !exponent.IsInt64() || exponent.Int64() < 3 || exponent.Int64() > 1<<31-1 {
			return nil, errors.New("n and e are not a valid RSA key")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}, nil
	case "EC":
		curve, ok := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Crv]
		if !ok {
			return nil, fmt.Errorf("crv must be P-256, P-384 or P-521, got %s", shown.Quote(k.Crv))
		}
		x, err1 := decodeBase64(k.X)
		y, err2 := decodeBase64(k.Y)
		size := (curve.Params().BitSize + 7) / 8
		if err1 != nil || err2 != nil || len(x) != size || len(y) != size {
			return nil, errors.New("x and y have the wrong length for the curve")
		}
		return ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	case "OKP":
		x, err := decodeBase64(k.X)
		if k.Crv != "Ed25519" || err != nil || len(x) != ed25519.PublicKeySize {
			return nil, errors.New("kty OKP must be an Ed25519 key")
		}
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("kty must be RSA, EC or OKP, got %s", shown.Quote(k.Kty))
}

func decodeBase64(text string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(text) }
