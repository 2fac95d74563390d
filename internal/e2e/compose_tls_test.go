// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
)

// TestComposeTLS runs docker-compose.yml with deploy/compose/tls.yml and its proxy.
func TestComposeTLS(t *testing.T) {
	policies, dir := policyDir(t), t.TempDir()
	path := "PATH=" + filepath.Dir(binary(t)) + ":" + os.Getenv("PATH")
	shell := func(command string) (string, int) {
		return run(t, "env", path, "bash", "-c", "cd "+dir+" && "+command)
	}
	script, err := filepath.Abs(filepath.Join(root, "deploy/compose/secrets.sh"))
	if err != nil {
		t.Fatal(err)
	}
	const key = "5c1e9b0f27d84a63b1f0d2c49e7a8863f1d5b7a9c3e24f60"
	if out, code := shell(script + " && chown -R 65532:65532 secrets && chmod 755 . .. && { echo api_keys:; bucketring policy hash-key --key acme/alice <<< " + key + "; } > " + policies + "/keys.yaml"); code != 0 {
		t.Fatalf("%s = exit %d, want 0:\n%s", script, code, out)
	}
	c := newCompose(t, filepath.Join(root, "docker-compose.yml"), filepath.Join(root, "deploy/compose/tls.yml"))
	c.env = append(c.env, "BUCKETRING_POLICY_DIR="+policies, "BUCKETRING_SECRETS_DIR="+filepath.Join(dir, "secrets"), "COMPOSE_PROFILES=proxy")
	c.up(t)
	for _, name := range []string{"node1", "node2", "node3", "proxy"} {
		c.ids[name] = c.must(t, "ps", "-q", name)
		waittest.Until(t, name+" is healthy", func() bool { return c.inspect(t, name, "{{.State.Health.Status}}") == "healthy" })
	}
	const operator = " --tls-ca-file secrets/certs/ca.crt --token-file secrets/ops.token"
	for _, test := range []struct {
		command, want string
		code          int
	}{
		{"bucketring check acme/bob --tier free" + operator, "allowed", 0},
		{"bucketring check acme/bob --tier free --server 127.0.0.1:6481" + operator, "allowed", 0},
		{"bucketring status" + operator, "node3", 0},
		{"curl -s --max-time 20 --cacert secrets/public/ca.crt https://localhost:6473/v1/chat/completions -H 'Authorization: Bearer " + key + `' -d '{"model":"mock-small","messages":[{"role":"user","content":"hello"}]}'`, `"usage"`, 0},
		{"bucketring limits acme/alice --server 127.0.0.1:6491" + operator, "acme/alice", 0},
		{"bucketring check acme/bob --tier free --tls-ca-file secrets/certs/ca.crt", "try: --token-file", 1},
		{"bucketring check acme/bob --tier free --token-file secrets/ops.token", "try: --tls", 1},
		{"curl -s --max-time 20 http://localhost:6470/v1/limits?key=acme/bob", "https://", 0},
	} {
		if out, code := shell(test.command); code != test.code || !strings.Contains(out, test.want) {
			t.Errorf("%s = exit %d, %s\nwant exit %d and %q", test.command, code, out, test.code, test.want)
		}
	}
}
