// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

// overloadDir is the directory for the documents of `make overload`. Without it,
// TestOverloadReport is skipped.
var (
	overloadDir    = flag.String("overload", "", "measure overload with the servers on one processor and the generator on another, and write the documents and a table to this directory")
	gubernatorPath = flag.String("gubernator", "", "with -overload: the binary of bench/gubernator; without it, Gubernator is not measured")
)

// overloadTargets are the rows of the table. Rates are where the search for the capacity
// begins.
var overloadTargets = []struct {
	name, label, target string
	rate                int
	llm                 bool
}{
	{"client-checks", "client library, checks", "", 20_000, false},
	{"grpc-checks", "one gRPC call per check", "grpc:", 8_000, false},
	{"http-checks", "HTTP, one check a call", "http:", 4_000, false},
	{"redis-lua", "Redis, token bucket in Lua, 1 limit", "redis-lua://", 10_000, false},
	{"gubernator", "Gubernator 2.13, three daemons, 1 limit", "gubernator:", 4_000, false},
	{"client-llm", "client library, LLM calls", "", 5_000, true},
	{"grpc-llm", "gRPC, LLM calls", "grpc:", 2_000, true},
	{"http-llm", "HTTP, LLM calls", "http:", 1_000, true},
}

// TestOverloadReport offers up to ten times what each target can answer. The servers have
// one processor, and the generator another, so that what the generator needs is not taken
// from them. The subtest "table" writes the table of all documents that exist.
func TestOverloadReport(t *testing.T) {
	if *overloadDir == "" {
		t.Skip("-overload is not set")
	}
	dir, err := filepath.Abs(*overloadDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, o := range overloadTargets {
		t.Run(o.name, func(t *testing.T) {
			document := filepath.Join(dir, o.name+".json")
			if err := os.Remove(document); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			args := []string{
				"bench", "run", "--overload", "--for", "1m", "--warmup", "2s", "--keys", "uniform:200k",
				"--rate", strconv.Itoa(o.rate), "--out", document, "--report", "",
			}
			if o.llm {
				args = append(args, "--llm", "50%", "--retries", "2%")
			}
			switch o.target {
			case "redis-lua://":
				measureApart(t, 0, append(args, "--target", o.target+redisServer(t, "taskset", "-c", serversCPU))...)
			case "gubernator:":
				if *gubernatorPath == "" {
					t.Skip("-gubernator is not set")
				}
				measureApart(t, 0, append(args, "--target", o.target+gubernatorServer(t, *gubernatorPath))...)
			default:
				args = append(args, "--local", "3")
				if o.target != "" {
					args = append(args, "--target", o.target)
				}
				measureApart(t, 3, args...)
			}
			if _, err := os.Stat(document); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("table", func(t *testing.T) { writeOverloadTable(t, dir) })
}

const serversCPU, generatorCPU = "1", "0"

// measureApart runs the bench on one processor and its nodes on another. They inherit
// theirs: so the bench starts on that, and moves when the nodes run.
func measureApart(t *testing.T, nodes int, args ...string) {
	t.Helper()
	cpu := generatorCPU
	if nodes > 0 {
		cpu = serversCPU
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*waittest.Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", cpu, binary(t)}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	moved := nodes == 0
	lines := bufio.NewScanner(errs)
	for lines.Scan() {
		t.Log(lines.Text())
		if !moved && strings.Contains(lines.Text(), "are in one ring") {
			moved = true
			if text, err := exec.Command("taskset", "-apc", generatorCPU, strconv.Itoa(cmd.Process.Pid)).CombinedOutput(); err != nil {
				t.Errorf("taskset: %v\n%s", err, text)
			}
		}
	}
	err = cmd.Wait()
	t.Logf("%s", &out)
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1: goodput fell
		t.Fatal(err)
	}
	if !moved {
		t.Error("the nodes did not start")
	}
}

// gubernatorServer runs a cluster of three daemons of Gubernator in one process.
func gubernatorServer(t *testing.T, path string) (address string) {
	t.Helper()
	address = freeport.Test(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("taskset", "-c", serversCPU, path, "--port", port, "--daemons", "3")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("gubernator does not start: %q, %v", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return net.JoinHostPort("127.0.0.1", port)
}

// writeOverloadTable writes the table of the documents in a directory.
func writeOverloadTable(t *testing.T, dir string) {
	var b strings.Builder
	b.WriteString("| | capacity | 1x | 2x | 4x | 10x | least, of the peak | p99 of answers at 0.9x, 2x, 10x | p99 of refusals at 2x, 10x | normal after | audit | of the control at 2x, 4x, 10x | p99 of bare refusals at 1x, 2x, 10x |\n" +
		"|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|\n")
	for _, o := range overloadTargets {
		file, err := os.Open(filepath.Join(dir, o.name+".json"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		run, err := report.Read(file)
		_ = file.Close()
		if err != nil {
			t.Fatal(err)
		}
		target := &run.Targets[0]
		m := target.Overload
		steps := map[float64]report.OverloadStep{}
		var back time.Duration
		for _, s := range m.Steps {
			steps[s.Times] = s
			if s.Recovery == report.NeverNormal || back == report.NeverNormal {
				back = report.NeverNormal
			} else {
				back = max(back, s.Recovery)
			}
		}
		_, least := m.Worst()
		verdict := "-"
		if target.Audit != nil {
			verdict = string(target.Audit.Verdict)
		}
		after := back.String()
		if back == report.NeverNormal {
			after = "> 2s"
		}
		k := func(f float64) string { return fmt.Sprintf("%.1fk", f/1000) }
		ms := func(d time.Duration) string { return strconv.FormatFloat(math.Round(d.Seconds()*1e4)/10, 'f', -1, 64) }
		ofControl := func(times float64) string {
			s := steps[times]
			if s.Control == nil || s.Control.Answered == 0 {
				return "-"
			}
			return fmt.Sprintf("%.0f %%", 100*s.Answered/s.Control.Answered)
		}
		bare := func(times float64) string {
			if s := steps[times]; s.Bare != nil {
				return ms(s.Bare.P99) + " ms"
			}
			return "-"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %.0f %% | %s, %s, %s ms | %s, %s ms | %s | %s | %s, %s, %s | %s, %s, %s |\n",
			o.label, k(m.Capacity), k(steps[1].Answered), k(steps[2].Answered), k(steps[4].Answered), k(steps[10].Answered), 100*least,
			ms(steps[0.9].P99), ms(steps[2].P99), ms(steps[10].P99), ms(steps[2].RefusedP99), ms(steps[10].RefusedP99), after, verdict,
			ofControl(2), ofControl(4), ofControl(10), bare(1), bare(2), bare(10))
	}
	if err := os.WriteFile(filepath.Join(dir, "overload.md"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + b.String())
}
