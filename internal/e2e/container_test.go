// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
)

// requireDocker skips on a developer's machine that has no Docker. In the CI
// that would be a test that nobody runs.
func requireDocker(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", "info").CombinedOutput()
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatalf("docker info: %v: the CI needs Docker\n%s", err, out)
	default:
		t.Skipf("SKIPPED, nothing was tested: docker info: %v\n%s", err, out)
	}
}

// TestContainer runs the image as an operator would: unprivileged, read-only,
// with the policy in a mounted directory.
func TestContainer(t *testing.T) {
	requireDocker(t)
	policies := t.TempDir()
	writePolicy(t, policies, 3)
	for _, dir := range []string{policies, policies + "/.."} { // the container's user is nobody here
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	id := must(t, "docker", "run", "--detach", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
		"--publish=127.0.0.1::6470", "--publish=127.0.0.1::6471", "--health-interval=1s",
		"--volume="+policies+":/policy:ro", image,
		"serve", "--http=:6470", "--grpc=:6471", "--insecure", "--policy=/policy")
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := exec.Command("docker", "logs", id).CombinedOutput()
			t.Logf("log of the container:\n%s", logs)
		}
		if err := exec.Command("docker", "rm", "--force", "--volumes", id).Run(); err != nil {
			t.Error(err)
		}
	})
	inspect := func(format string) string { return must(t, "docker", "inspect", "--format", format, id) }
	waittest.Until(t, "the container is healthy", func() bool { return inspect("{{.State.Health.Status}}") == "healthy" })
	if user := inspect("{{.Config.User}}"); user != "65532:65532" {
		t.Errorf("the container runs as %s, want 65532:65532", user)
	}
	if out := must(t, "docker", "exec", id, "/bucketring", "health", "--ready"); out != "ok" {
		t.Errorf("health --ready says %q, want ok", out)
	}
	http := must(t, "docker", "port", id, "6470/tcp")
	grpc := must(t, "docker", "port", id, "6471/tcp")

	for i, want := range []int{200, 200, 200, 429} {
		a := curl(t, http, `{"key":"acme/alice","input_tokens":1200}`)
		if a.status != want || (want == 429) != (a.retry != "") {
			t.Errorf("check %d = %d, Retry-After %q, want %d", i+1, a.status, a.retry, want)
		}
	}
	if out, code := run(t, binary(t), "check", "acme/alice", "--server", grpc, "--input-tokens", "1200"); code != 3 {
		t.Errorf("bucketring check = exit %d, want 3 (denied):\n%s", code, out)
	}
	if out, code := run(t, binary(t), "check", "acme/bob", "--server", grpc, "--input-tokens", "1200"); code != 0 {
		t.Errorf("bucketring check of another key = exit %d, want 0:\n%s", code, out)
	}

	writePolicy(t, policies, 20)
	waittest.Until(t, "the new policy is in force", func() bool {
		limit, _ := curl(t, http, `{"key":"acme/carol"}`).limit(t, "requests")
		return limit == 20
	})
	if a := curl(t, http, `{"key":"acme/alice"}`); a.status != 200 {
		t.Errorf("check after the limit was raised = %d, want 200", a.status)
	}

	must(t, "docker", "stop", "--time=25", id)
	if code := inspect("{{.State.ExitCode}}"); code != "0" {
		t.Errorf("after SIGTERM the container ended with %s, want 0", code)
	}
	if logs := must(t, "docker", "logs", id); !strings.Contains(logs, "shutting down") {
		t.Errorf("the log says nothing of a shutdown:\n%s", logs)
	}
}
