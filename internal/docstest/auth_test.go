// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/yamldoc"
)

// TestAuthBlocksParse parses blocks of "yaml auth" like a node. The keys for JWTs that they
// name are those of RFC 8037.
func TestAuthBlocksParse(t *testing.T) {
	const keys = `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	n := 0
	for _, file := range documents(t) {
		for _, b := range blocks(t, file, "yaml auth") {
			n++
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "jwks.json"), []byte(keys), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := auth.Parse([]yamldoc.File{{Name: filepath.Join(dir, "auth.yaml"), Source: []byte(b.text)}}, nil); err != nil {
				t.Errorf("%s:%d: %v", file, b.line, err)
			}
		}
	}
	if n < 1 {
		t.Error("the documents have no file of callers")
	}
}
