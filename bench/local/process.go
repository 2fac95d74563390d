// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"os/exec"
	"time"
)

// Process is a program beside a cluster, such as another limiter. It ends with this process.
type Process struct{ child *child }

// StartProcess starts a program whose output is appended to the file log. The caller must
// [Process.Stop] it.
func StartProcess(log, path string, args ...string) (*Process, error) {
	cmd := exec.Command(path, args...)
	cmd.Env = environment(nil)
	c, err := spawn(cmd, log, func(*child) {})
	if err != nil {
		return nil, err
	}
	return &Process{c}, nil
}

// PID returns the id of the process.
func (p *Process) PID() int { return p.child.process.Pid }

// Err returns how the process has ended, with the end of its log, or nil if it runs.
func (p *Process) Err() error {
	if !p.child.ended() {
		return nil
	}
	return fmt.Errorf("%s", p.child.exitDetails())
}

// Stop asks the process to end, and kills it if it has not after a time. It may be called
// again.
func (p *Process) Stop(timeout time.Duration) {
	p.child.interrupt()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.child.done:
	case <-timer.C:
		p.child.kill()
	}
}
