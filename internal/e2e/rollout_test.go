// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

// TestRollout replaces the nodes of a cluster one after the other, as Kubernetes replaces
// the pods of a StatefulSet: the last one first, each after the preStop command of the
// manifest, with SIGTERM, within its grace period, and the next one when the new pod is
// ready. A pod keeps its name and gets another address. Callers notice nothing, and a
// limit that is used meanwhile admits exactly what it allows.
func TestRollout(t *testing.T) {
	command, grace := preStop(t)
	c := &cluster{}
	pods := make([]*process, 3)
	policies := policyDir(t)
	// What the headless service returns: the addresses of all pods that exist.
	var gossip [3]string
	start := func(i int) {
		name := fmt.Sprintf("bucketring-%d", i)
		m := c.members[i]
		m.http, m.grpc = freeport.Test(t), freeport.Test(t)
		if gossip[i] == "" || pods[i] != nil {
			gossip[i] = freeport.Test(t)
		}
		m.connect(t)
		pods[i] = startProcess(t, name, binary(t), "serve", "--name", name, "--http", m.http, "--grpc", m.grpc, "--gossip", gossip[i],
			"--join", strings.Join(gossip[:], ","), "--bootstrap-expect", "3", "--policy", policies, "--drain-delay", "1s")
	}
	for i := range gossip {
		gossip[i] = freeport.Test(t)
		c.members = append(c.members, newMember(t, fmt.Sprintf("bucketring-%d", i), "127.0.0.1:1", "127.0.0.1:1"))
	}
	for i := range pods {
		start(i)
	}
	for _, m := range c.members {
		ready(t, m.http)
	}
	c.awaitOneView(t, waittest.Limit)
	c.client = c.dial(t)

	viaOwner := viaClient(c.client, "exact")
	keys := make([]string, len(pods))
	loads := make([]*load, len(pods))
	for i, m := range c.members {
		keys[i] = c.keysOf(t, m, "rollout", 1)[0]
		loads[i] = (&load{callers: []caller{viaOwner}, keys: keys[i : i+1], workers: 1, pause: 100 * time.Millisecond}).start(t)
	}
	for i := len(pods) - 1; i >= 0; i-- {
		m := c.members[i]
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), grace)
		cmd := exec.CommandContext(ctx, binary(t), command...)
		cmd.Env = append(os.Environ(), "BUCKETRING_HTTP="+m.http) // as in the container
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			t.Fatalf("preStop %v of %s: %v\n%s", command, m.name, err, out)
		}
		waited := time.Since(began)
		pods[i].stop(t) // it must end with 0
		took := time.Since(began)
		if took > grace {
			t.Errorf("%s took %s to stop, want at most its grace period, %s", m.name, took, grace)
		}
		t.Logf("%s waited %s until it could be lost, and stopped after %s", m.name, waited.Round(time.Millisecond), took.Round(time.Millisecond))
		start(i)
		waittest.Until(t, m.name+" to be ready", func() bool {
			resp, err := http.Get("http://" + m.http + "/readyz")
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
	c.awaitOneView(t, healTimeout)
	for i, l := range loads {
		calls := l.end()
		calls.wantAnswered(t, "during the rollout, "+keys[i])
		allowed := 0
		for _, s := range calls {
			if s.allowed {
				allowed++
			}
		}
		more, _ := admitted(t, []caller{viaOwner}, keys[i], exactLimit+100)
		if allowed+more != exactLimit {
			t.Errorf("%s admitted %d calls during the rollout and %d afterwards, want %d together", keys[i], allowed, more, exactLimit)
		}
		if allowed < 10 || more < 10 {
			t.Errorf("%s admitted %d calls during the rollout and %d afterwards, want some of both", keys[i], allowed, more)
		}
	}
}

var preStopLines = regexp.MustCompile(`(?m)^ +- /bucketring\n((?: +- .*\n)+)`)

// preStop returns the arguments of the preStop command in the manifest, and the grace
// period of a pod.
func preStop(t *testing.T) (args []string, grace time.Duration) {
	t.Helper()
	text, err := os.ReadFile(root + "/deploy/manifests/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := preStopLines.FindStringSubmatch(string(text))
	seconds := regexp.MustCompile(`terminationGracePeriodSeconds: (\d+)`).FindStringSubmatch(string(text))
	if found == nil || seconds == nil {
		t.Fatal("the manifest has no preStop or no grace period")
	}
	for line := range strings.Lines(found[1]) {
		args = append(args, strings.TrimPrefix(strings.TrimSpace(line), "- "))
	}
	grace, err = time.ParseDuration(seconds[1] + "s")
	if err != nil {
		t.Fatal(err)
	}
	return args, grace
}
