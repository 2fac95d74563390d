// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/bucketring/bucketring/internal/waittest"
)

func signed(t *testing.T, key string, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func jwtClaims(change map[string]any) jwt.MapClaims {
	c := jwt.MapClaims{"iss": "https://issuer", "aud": "nodes", "sub": "batch-1", "groups": []string{"readers", "writers"}, "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(c, change)
	return c
}

func TestJWTs(t *testing.T) {
	w := newWorld(t, callersText())
	ctx := from(somewhere, nil)
	for name, test := range map[string]struct{ token, want string }{
		"valid":      {signed(t, jwtSecret, jwtClaims(nil)), "batch"},
		"other sub":  {signed(t, jwtSecret, jwtClaims(map[string]any{"sub": "batch-2"})), "batch"},
		"no caller":  {signed(t, jwtSecret, jwtClaims(map[string]any{"sub": "batch-3"})), "Unauthenticated: the token is valid, but no caller in the file of --auth has its claims"},
		"no group":   {signed(t, jwtSecret, jwtClaims(map[string]any{"groups": []string{"readers"}})), "Unauthenticated: the token is valid, but"},
		"nested":     {signed(t, jwtSecret, jwtClaims(map[string]any{"groups": [][]string{{"writers"}}})), "Unauthenticated: the token is valid, but"},
		"expired":    {signed(t, jwtSecret, jwtClaims(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), "Unauthenticated: the token has expired."},
		"wrong key":  {signed(t, strings.Repeat("x", 32), jwtClaims(nil)), "Unauthenticated: the token is not valid: it must be signed by a key that is known here"},
		"issuer":     {signed(t, jwtSecret, jwtClaims(map[string]any{"iss": "https://other"})), `Unauthenticated: the token is not valid: its iss must be "https://issuer"`},
		"audience":   {signed(t, jwtSecret, jwtClaims(map[string]any{"aud": "others"})), `Unauthenticated: the token is not valid: its aud must contain "nodes"`},
		"two points": {"a.b.c", "Unauthenticated: the token is not valid"},
		"too long":   {strings.Repeat("x", 20<<10), "Unauthenticated: the token has more than"},
	} {
		w.want(name, w.call(ctx, check, test.token), test.want)
	}
	token := signed(t, jwtSecret, jwtClaims(nil))
	w.want("the first time", w.call(ctx, check, token), "batch")
	md := bearerOf(token)
	if n := testing.AllocsPerRun(100, func() { w.GRPC(ctx, check, md) }); n > 2 {
		t.Errorf("a JWT that was seen costs %v allocations, want that of the context and one for its hash", n)
	}
	w.reload(strings.ReplaceAll(callersText(), "batch-1, ", ""))
	w.want("after its claims are those of no caller", w.call(ctx, check, token), "Unauthenticated: the token is valid, but")
}

// The keys of JWTs may be replaced without a change of the file.
func TestJWTKeysAreWatched(t *testing.T) {
	w := newWorld(t, callersText())
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	defer func() { stop(); <-done }()
	other := strings.Repeat("o", 32)
	token := signed(t, other, jwtClaims(nil))
	w.want("before", w.call(from(somewhere, nil), check, token), "Unauthenticated")
	path := filepath.Join(filepath.Dir(w.path), "secret")
	if err := os.WriteFile(path+".next", []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
	asked := 0
	waittest.Until(t, "the new key", func() bool {
		asked++ // each time from another address, which has had no failures
		return w.call(from(fmt.Sprintf("10.0.%d.%d:1", asked>>8&255, asked&255), nil), check, token) == "batch"
	})
}
