// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bucketring/bucketring/internal/pgtest"
	"github.com/bucketring/bucketring/internal/waittest"
)

// TestSecureCluster runs docs/examples/secure-cluster.sh in a network namespace of its own,
// whose packets it reads: nothing that a caller, a proxy, a node or a member says is in them,
// except between the proxies and the model server.
func TestSecureCluster(t *testing.T) {
	database := pgtest.Start(t).Database(t)
	s := newSandbox(t, "PATH="+filepath.Dir(binary(t))+":"+os.Getenv("PATH"), "DATABASE="+database.SocketURL)
	script, err := filepath.Abs("../../docs/examples/secure-cluster.sh")
	if err != nil {
		t.Fatal(err)
	}
	packets := s.capture(t)
	s.start(t, script)
	key := strings.TrimSpace(s.file(t, "alice.key"))
	ask := func(proxy int, content string) string {
		return s.run(t, "curl", "--silent", "--max-time", "10", "--cacert", "public/ca.crt", fmt.Sprintf("https://localhost:%d/v1/chat/completions", 8442+proxy),
			"--header", "Authorization: Bearer "+key, "--data", `{"model":"m","max_tokens":20,"messages":[{"role":"user","content":"`+content+`"}]}`)
	}
	const prompt = "whoever reads this reads prompts"
	for i := range 10 {
		if answer := ask(1+i%2, prompt); !strings.Contains(answer, `"completion_tokens":20`) {
			t.Fatalf("proxy %d answers %s, want a completion", 1+i%2, answer)
		}
	}
	operator := func(args ...string) string {
		return s.run(t, "bucketring", append(args, "--server", "localhost:6481", "--tls-ca-file", "cluster/ca.crt", "--token-file", "ops.token")...)
	}
	if table := operator("limits", "acme/alice"); !strings.Contains(table, "$49.9") {
		t.Errorf("the limits after ten calls are\n%s\nwant dollars that were used", table)
	}

	// A limit is changed in SQL.
	database.Exec(t, "UPDATE bucketring_limits SET amount = 0 WHERE tier = 'standard' AND name = 'requests'")
	waittest.Until(t, "denial", func() bool { return strings.Contains(ask(1, prompt), "the limit of acme/alice is 0") })
	database.Exec(t, "UPDATE bucketring_limits SET amount = 60 WHERE tier = 'standard' AND name = 'requests'")
	waittest.Until(t, "completion", func() bool { return strings.Contains(ask(2, prompt), `"completion_tokens":20`) })
	if answer := operator("admin", "reset", "acme/alice", "--limit", "spend"); !strings.Contains(answer, "spend") {
		t.Errorf("a reset answers %s", answer)
	}
	if log := s.file(t, "audit1.log") + s.file(t, "audit2.log") + s.file(t, "audit3.log"); !strings.Contains(log, "ops at ") {
		t.Errorf("the audit logs are %q, want the operator", log)
	}

	// Who has no credentials is refused, with what to do.
	for _, test := range []struct{ want, command string }{
		{"--token-file", "bucketring check acme/alice --server localhost:6471 --tls-ca-file cluster/ca.crt"},
		{"--tls-ca-file", "bucketring check acme/alice --server localhost:6471 --tls-ca-file public/ca.crt --token-file ops.token"},
		{"--tls", "bucketring check acme/alice --server localhost:6471 --token-file ops.token"},
		{"certificate", "bucketring check acme/alice --server localhost:6471 --tls-ca-file cluster/ca.crt --tls-cert-file public/proxy1.crt --tls-key-file public/proxy1.key"},
	} {
		out, err := s.command(test.command).CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%s = %v, %s, want an error with %q", test.command, err, out, test.want)
		}
	}

	secrets := []string{prompt, key, "acme/alice", strings.TrimSpace(s.file(t, "ops.token")), strings.TrimSpace(s.file(t, "cluster.key"))}
	packets.stop(t)
	for _, secret := range secrets {
		if where := packets.with(secret, false); where != "" {
			t.Errorf("%q is in a packet %s", secret, where)
		}
	}
	if packets.with(prompt, true) == "" {
		t.Errorf("the prompt is in none of %d packets, also not in those to the model server: the capture does not work", len(packets.all))
	}
}

// sandbox is a network namespace and a directory, in which commands run.
type sandbox struct {
	namespace, dir string
	env            []string
}

func newSandbox(t *testing.T, env ...string) *sandbox {
	t.Helper()
	s := &sandbox{namespace: fmt.Sprintf("brs%x", os.Getpid()&0xffff), dir: t.TempDir(), env: append(os.Environ(), env...)}
	must(t, "ip", "netns", "add", s.namespace)
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", s.namespace).CombinedOutput(); err != nil {
			t.Errorf("delete namespace %s: %v\n%s", s.namespace, err, out)
		}
	})
	must(t, "ip", "-n", s.namespace, "link", "set", "lo", "up")
	return s
}

// command returns a command of the shell, in the directory that the script makes.
func (s *sandbox) command(text string) *exec.Cmd {
	cmd := exec.Command("ip", "netns", "exec", s.namespace, "bash", "-c", text)
	cmd.Env, cmd.Dir = s.env, filepath.Join(s.dir, "secure")
	return cmd
}

func (s *sandbox) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := s.command(`exec "$0" "$@"`)
	cmd.Args = append(append(cmd.Args, name), args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func (s *sandbox) file(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "secure", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// start runs the script until the test ends, and waits until it is ready.
func (s *sandbox) start(t *testing.T, script string) {
	t.Helper()
	cmd := s.command("cd .. && exec " + script)
	cmd.Dir = s.dir
	cmd.Args[len(cmd.Args)-1] = "exec " + script
	out, err := os.Create(filepath.Join(s.dir, "output"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	output := func() string { text, _ := os.ReadFile(out.Name()); return string(text) }
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("after SIGTERM the script ended with %v, want exit 0:\n%s", err, output())
			}
		case <-time.After(waittest.Limit):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			t.Errorf("the script does not end:\n%s", output())
		}
		_ = out.Close()
	})
	for deadline := time.Now().Add(3 * waittest.Limit); !strings.Contains(output(), "In the directory secure:"); time.Sleep(100 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the script ended with %v:\n%s", err, output())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster is not ready:\n%s", output())
		}
	}
}

// modelPort is the port of the model server, which gets prompts in plaintext.
const modelPort = 9000

// packets are those on the loopback interface of a sandbox.
type packets struct {
	all    [][]byte
	halt   atomic.Bool
	ended  chan error
	socket int
}

// capture reads all packets from now on.
func (s *sandbox) capture(t *testing.T) *packets {
	t.Helper()
	p := &packets{ended: make(chan error, 1)}
	opened := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, which is in the namespace, ends with the goroutine
		err := p.open("/run/netns/" + s.namespace)
		opened <- err
		if err == nil {
			p.ended <- p.read()
		}
	}()
	if err := <-opened; err != nil {
		t.Fatalf("capture packets: %v", err)
	}
	return p
}

func (p *packets) open(namespace string) error {
	ns, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00 // in network byte order
	if p.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, all); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(p.socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20); err != nil {
		return err
	}
	wait := unix.NsecToTimeval(int64(100 * time.Millisecond))
	return unix.SetsockoptTimeval(p.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
}

func (p *packets) read() error {
	defer unix.Close(p.socket)
	buf := make([]byte, 1<<17)
	for !p.halt.Load() {
		n, _, err := unix.Recvfrom(p.socket, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		default:
			p.all = append(p.all, bytes.Clone(buf[:n]))
		}
	}
	var lost *unix.TpacketStats
	lost, err := unix.GetsockoptTpacketStats(p.socket, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil && lost.Drops > 0 {
		err = fmt.Errorf("%d packets were lost", lost.Drops)
	}
	return err
}

func (p *packets) stop(t *testing.T) {
	t.Helper()
	p.halt.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	select {
	case err := <-p.ended:
		if err != nil {
			t.Fatalf("capture packets: %v", err)
		}
	case <-ctx.Done():
		t.Fatal("the capture does not end")
	}
}

// with returns the ports of a packet with a text, or "" if there is none: of those to and
// from the model server, or of all others.
func (p *packets) with(text string, model bool) string {
	for _, packet := range p.all {
		const ethernet, ports = 14, 4
		if len(packet) < ethernet+20 {
			continue
		}
		header := int(packet[ethernet]&0xf) * 4
		if packet[ethernet]>>4 == 6 {
			header = 40
		}
		if len(packet) < ethernet+header+ports {
			continue
		}
		at := packet[ethernet+header:]
		from, to := int(at[0])<<8|int(at[1]), int(at[2])<<8|int(at[3])
		if (from == modelPort || to == modelPort) == model && bytes.Contains(packet, []byte(text)) {
			return fmt.Sprintf("from port %d to port %d", from, to)
		}
	}
	return ""
}
