// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// child is a process of a node. A node that is restarted has a new child.
type child struct {
	process       *os.Process
	logPath       string
	logOffset     int64       // where its log begins in the file
	stopRequested atomic.Bool // the process was told to end; otherwise its end is a crash

	done chan struct{} // closed when the process has ended; err and cpu are valid then
	err  error         // from [exec.Cmd.Wait]
	cpu  time.Duration // user and system
}

// spawn starts a command whose output is appended to the file log. It calls exited
// when the process has ended, before it closes done.
func spawn(cmd *exec.Cmd, log string, exited func(*child)) (*child, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a log: %w", err)
	}
	defer file.Close() // the child has its own descriptor
	from, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("open a log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = attributes()
	c := &child{logPath: log, logOffset: from, done: make(chan struct{})}
	started := make(chan error, 1) // cap 1: the result of Start
	go func() {
		// The kernel kills the child when the thread that started it ends, so this
		// thread does nothing else while the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		c.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		c.err = cmd.Wait()
		c.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		exited(c)
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return c, nil
}

// ended reports whether the process has ended.
func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// interrupt asks the process to end, once: a second signal would end it at once.
func (c *child) interrupt() {
	if c.stopRequested.Swap(true) {
		return
	}
	if err := interrupt(c.process); err != nil {
		_ = c.process.Kill() // signals are not supported, or the process has ended
	}
}

// kill ends the process without a chance to clean up, and waits for its end.
func (c *child) kill() {
	c.stopRequested.Store(true)
	_ = c.process.Kill() // fails only if the process has ended
	<-c.done
}

// exitStatus describes how the process ended. It must have ended.
func (c *child) exitStatus() string {
	if c.err != nil {
		return c.err.Error()
	}
	return "exit status 0"
}

// exitDetails returns the exit status and the end of the log.
func (c *child) exitDetails() string { return c.exitStatus() + c.tail() }

// portTaken reports whether the process, which has ended, failed because a port was in
// use.
func (c *child) portTaken() bool {
	return strings.Contains(c.tail(), syscall.EADDRINUSE.Error())
}

// How much of a log errors show.
const (
	tailLines = 15
	tailBytes = 4096
)

// tail returns the end of the log, to be appended to an error.
func (c *child) tail() string {
	text, err := readTail(c.logPath, c.logOffset)
	switch {
	case err != nil:
		return fmt.Sprintf("; could not read its log: %v", err)
	case text == "":
		return "; its log is empty"
	}
	return "; the end of its log:\n" + text
}

// readTail returns the last lines of a file after offset from, indented.
func readTail(path string, from int64) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	start := max(from, size-tailBytes)
	text, err := io.ReadAll(io.NewSectionReader(file, start, size-start))
	if err != nil {
		return "", err
	}
	lines := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	if start > from && len(lines) > 1 {
		lines = lines[1:] // cut off
	}
	lines = lines[max(0, len(lines)-tailLines):]
	if len(bytes.TrimSpace(text)) == 0 {
		return "", nil
	}
	return "    " + string(bytes.Join(lines, []byte("\n    "))), nil
}
