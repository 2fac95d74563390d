// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	childMark = "child"
	patience  = 30 * time.Second // until a child is ready
	stopTime  = 2 * time.Second
)

// child is a server in a separate process.
type child struct {
	cmd  *exec.Cmd
	grpc string
}

// ready is what a child writes to its output when it accepts requests.
type ready struct {
	GRPC string `json:"grpc"`
}

// spawn starts this binary as a server.
func spawn(ctx context.Context, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(ctx, self, append([]string{childMark}, args...)...)
}

func start(ctx context.Context, path string, args ...string) (*child, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd}
	started := make(chan error, 1)
	go func() {
		var r ready
		line, err := bufio.NewReader(out).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &r)
		}
		c.grpc = r.GRPC
		started <- err
	}()
	select {
	case err = <-started:
	case <-time.After(patience):
		err = errors.New("not ready in time")
	}
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("start %s: %w", strings.Join(args, " "), err)
	}
	return c, nil
}

// stop stops the child gracefully, so that it can write its profile.
func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	kill := time.AfterFunc(stopTime, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	_ = c.cmd.Wait()
}

// ticks per second in /proc, the same on every Linux.
const ticks = 10 * time.Millisecond

// cpu returns the CPU time of the process.
func (c *child) cpu() time.Duration {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(c.cmd.Process.Pid) + "/stat")
	if err != nil {
		return 0
	}
	// Fields 14 and 15; the second field is a name in parentheses.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	var sum time.Duration
	for _, f := range fields[11:13] {
		n, _ := strconv.ParseInt(f, 10, 64)
		sum += time.Duration(n) * ticks
	}
	return sum
}

// announce tells the parent that the child accepts requests.
func announce(grpc string) error {
	return json.NewEncoder(os.Stdout).Encode(ready{GRPC: grpc})
}
