// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

// process is a node that can be killed, frozen and started again.
type process struct {
	name    string
	command []string // the same at each start

	cmd *exec.Cmd
	log *syncBuffer
}

// startProcess starts a node that is killed when the test ends.
func startProcess(t *testing.T, name string, command ...string) *process {
	t.Helper()
	p := &process{name: name, command: command, log: &syncBuffer{}}
	t.Cleanup(func() {
		p.kill(t)
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, p.log.tail(60))
		}
	})
	p.start(t)
	return p
}

func (p *process) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(p.command[0], p.command[1:]...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no node outlives the tests
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.cmd = cmd
}

// kill sends SIGKILL.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if p.cmd == nil {
		return
	}
	p.signal(t, syscall.SIGKILL)
	_ = p.cmd.Wait() // returns the signal
	p.cmd = nil
}

// stop sends SIGTERM.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM %s ended with %v, want exit 0:\n%s", p.name, err, p.log.tail(60))
	}
	p.cmd = nil
}

// freeze sends SIGSTOP and waits until all threads have stopped.
func (p *process) freeze(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	waittest.Until(t, p.name+" to stop all threads", func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		if err != nil || len(tasks) == 0 {
			t.Fatalf("%s has no threads: %v", p.name, err)
		}
		return !slices.ContainsFunc(tasks, func(task string) bool {
			text, err := os.ReadFile(task)
			return err == nil && !strings.Contains(string(text), ") T ")
		})
	})
}

func (p *process) thaw(t *testing.T) { t.Helper(); p.signal(t, syscall.SIGCONT) }

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Errorf("%v to %s: %v", s, p.name, err)
	}
}

// processes are the nodes of a cluster on the loopback address.
type processes struct {
	cluster
	run []*process // in the order of members
}

// startProcesses starts a cluster of n nodes.
func startProcesses(t *testing.T, n int, flags ...string) *processes {
	t.Helper()
	type addresses struct{ http, grpc, gossip string }
	at := make([]addresses, n)
	var join []string
	for i := range at {
		at[i] = addresses{freeport.Test(t), freeport.Test(t), freeport.Test(t)}
		join = append(join, at[i].gossip)
	}
	policies := policyDir(t)
	ps := &processes{}
	for i, a := range at {
		name := fmt.Sprintf("node-%d", i+1)
		ps.run = append(ps.run, startProcess(t, name, append([]string{
			binary(t), "serve", "--name", name, "--http", a.http, "--grpc", a.grpc,
			"--gossip", a.gossip, "--join", strings.Join(join, ","), "--policy", policies,
		}, flags...)...))
		ps.members = append(ps.members, newMember(t, name, a.http, a.grpc))
	}
	ps.client = ps.dial(t)
	for _, m := range ps.members {
		ready(t, m.http)
	}
	ps.awaitOneView(t, waittest.Limit)
	return ps
}

// syncBuffer is written by a process and read by the test.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// tail returns the last lines.
func (s *syncBuffer) tail(n int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := strings.SplitAfter(s.b.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
