// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
)

// composeUp is the time that containers get to start or stop.
const composeUp = 2 * time.Minute

// compose is the cluster of docker-compose.yml under a project name of its own.
type compose struct {
	cluster
	tool    []string // docker-compose, or docker compose
	files   []string
	project string
	env     []string
	ids     map[string]string // of containers, by service
}

// newCompose needs docker-compose 1.29 or Compose v2; $COMPOSE chooses.
func newCompose(t *testing.T, files ...string) *compose {
	t.Helper()
	requireDocker(t)
	tool := []string{"docker-compose"}
	if _, err := exec.LookPath(tool[0]); err != nil {
		tool = []string{"docker", "compose"}
	}
	if chosen := os.Getenv("COMPOSE"); chosen != "" {
		tool = strings.Fields(chosen)
	}
	c := &compose{tool: tool, files: files, project: fmt.Sprintf("bucketring-e2e-%d", os.Getpid()), env: os.Environ(), ids: map[string]string{}}
	if out, err := c.try("version"); err != nil {
		t.Fatalf("%s: %v: Compose is needed\n%s", strings.Join(tool, " "), err, out)
	}
	return c
}

// try runs compose, also when the test is over.
func (c *compose) try(args ...string) (out string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), composeUp)
	defer cancel()
	flags := slices.Clone(c.tool[1:])
	for _, file := range c.files {
		flags = append(flags, "--file", file)
	}
	args = append(append(flags, "--project-name", c.project), args...)
	cmd := exec.CommandContext(ctx, c.tool[0], args...)
	cmd.Env, cmd.WaitDelay = c.env, time.Second
	text, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(text)), err
}

func (c *compose) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.try(args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", strings.Join(c.tool, " "), args, err, out)
	}
	return out
}

func (c *compose) inspect(t *testing.T, service, format string) string {
	t.Helper()
	return must(t, "docker", "inspect", "--format", format, c.ids[service])
}

func (c *compose) awaitHealthy(t *testing.T) {
	t.Helper()
	for _, m := range c.members {
		waittest.Until(t, m.name+" is healthy", func() bool { return c.inspect(t, m.name, "{{.State.Health.Status}}") == "healthy" })
	}
}

// startCompose brings the cluster up as the README says, with more tiers in its
// policy directory and what env adds.
func startCompose(t *testing.T, env ...string) *compose {
	t.Helper()
	c := newCompose(t, filepath.Join(root, "docker-compose.yml"))
	c.env = append(append(c.env, "BUCKETRING_POLICY_DIR="+policyDir(t)), env...)
	c.up(t)
	for i, name := range []string{"node1", "node2", "node3"} {
		published := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port+10*i)) }
		c.members = append(c.members, newMember(t, name, published(6470), published(6471)))
		if c.ids[name] = c.must(t, "ps", "-q", name); len(strings.Fields(c.ids[name])) != 1 {
			t.Fatalf("the containers of %s are %q, want one", name, c.ids[name])
		}
	}
	c.awaitHealthy(t)
	c.awaitOneView(t, waittest.Limit)
	c.client = c.onTheNetwork(t).dial(t)
	return c
}

// up starts the containers, until the test ends.
func (c *compose) up(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := c.try("logs", "--no-color", "--tail=60")
			t.Logf("logs of the containers:\n%s", logs)
		}
		if out, err := c.try("down", "--volumes", "--remove-orphans", "--timeout", "5"); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	c.must(t, "up", "-d")
}

// onTheNetwork are the members at the addresses that they have on the network of
// the cluster.
func (c *compose) onTheNetwork(t *testing.T) members {
	t.Helper()
	var inside members
	for _, m := range c.members {
		ip := c.inspect(t, m.name, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
		inside = append(inside, newMember(t, m.name, net.JoinHostPort(ip, "6470"), net.JoinHostPort(ip, "6471")))
	}
	return inside
}

func (c *compose) network() string { return c.project + "_ring" }

// TestCompose runs docker-compose.yml: what a new user does first, and then
// what happens to containers.
func TestCompose(t *testing.T) {
	c := startCompose(t)
	for i, m := range c.members {
		port := 6470 + 10*i
		answer := must(t, "sh", "-c", fmt.Sprintf(
			`curl -si --max-time 10 localhost:%d/v1/check -d '{"key":"acme/alice","tier":"free","input_tokens":1200}'`, port))
		if left := fmt.Sprintf(`X-Ratelimit-Remaining-Requests: %d`, 9-i); !strings.HasPrefix(answer, "HTTP/1.1 200") || !strings.Contains(answer, left) {
			t.Errorf("call %d of the README, to %s = %s\nwant 200 and %s: the nodes share one count", i+1, m.name, answer, left)
		}
		if user := c.inspect(t, m.name, "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.RestartPolicy.Name}}"); user != "65532:65532 true unless-stopped" {
			t.Errorf("%s runs as %s, want 65532:65532, read-only and restarted", m.name, user)
		}
	}

	c.wantBalance(t)
	c.wantSameOwners(t, 10_000)
	c.wantOneCount(t, "nodes", viaNodes(c.members, "exact"), 3)
	c.wantOneCount(t, "client", []caller{viaClient(c.client, "exact")}, 3)
	c.wantOneReservation(t)

	last := c.members[2]
	docker := func(args ...string) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			must(t, "docker", append(args, c.ids[last.name])...)
		}
	}
	t.Run("kill", func(t *testing.T) {
		c.survive(t, last, fault{
			name:   "kill",
			proven: true,
			inject: func(t *testing.T) { c.must(t, "kill", last.name) },
			repair: func(t *testing.T) { c.must(t, "start", last.name) },
		})
	})
	t.Run("pause", func(t *testing.T) {
		c.survive(t, last, fault{name: "pause", inject: docker("pause"), repair: docker("unpause")})
	})
	t.Run("disconnect", func(t *testing.T) {
		c.survive(t, last, fault{
			name:   "disconnect",
			inject: docker("network", "disconnect", c.network()),
			repair: docker("network", "connect", "--alias", last.name, c.network()),
		})
	})
	t.Run("crash", func(t *testing.T) { c.surviveCrash(t, last) })
	t.Run("stop", func(t *testing.T) {
		c.must(t, "stop", last.name)
		if code := c.inspect(t, last.name, "{{.State.ExitCode}}"); code != "0" {
			t.Errorf("after SIGTERM %s ended with %s, want 0", last.name, code)
		}
		c.but(last).awaitOneView(t, healTimeout)
	})
}

// surviveCrash kills the process in a container: the engine starts it again.
func (c *compose) surviveCrash(t *testing.T, broken *member) {
	before := c.members[0].bootOf(t.Context(), broken.name)
	pid, err := strconv.Atoi(c.inspect(t, broken.name, "{{.State.Pid}}"))
	if err != nil || pid <= 1 {
		t.Fatalf("%s has process %d: %v", broken.name, pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill the process of %s: %v", broken.name, err)
	}
	c.awaitRestart(t, broken, before)
	c.awaitHealthy(t)
	c.awaitOneView(t, healTimeout)
}

// TestComposeWithoutBinary is a new user who has not built anything.
func TestComposeWithoutBinary(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"docker-compose.yml", "Dockerfile", ".dockerignore", "LICENSE", "NOTICE"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := newCompose(t, filepath.Join(dir, "docker-compose.yml"))
	c.project += "-new"
	out, err := c.try("build", "node1")
	if err == nil || !strings.Contains(out, "bin/bucketring") {
		t.Errorf("build without the binary = %v, want a failure that names bin/bucketring:\n%s", err, out)
	}
}
