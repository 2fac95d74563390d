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

// child is one process of a node. A node that is restarted has a new one.
type child struct {
	process *os.Process
	log     string      // the file
	from    int64       // where its log begins there
	asked   atomic.Bool // to end; if it was not, its end is a crash

	done chan struct{} // closed when it has ended, with what follows
	err  error         // as [exec.Cmd.Wait] returns it
	cpu  time.Duration // all that it used
}

// spawn starts a command whose output is appended to a file. It calls exited
// when the process has ended, before done is closed.
func spawn(cmd *exec.Cmd, log string, exited func(*child)) (*child, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a log: %w", err)
	}
	defer file.Close() // the child has its own
	from, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("open a log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = attributes()
	c := &child{log: log, from: from, done: make(chan struct{})}
	started := make(chan error, 1) // one value: whether it was started
	go func() {
		// The child dies with the thread that started it, so that thread has
		// nothing else to do as long as the child lives.
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

// ended reports whether it has.
func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// interrupt asks it to end, once: a second time would end it at once.
func (c *child) interrupt() {
	if c.asked.Swap(true) {
		return
	}
	if err := interrupt(c.process); err != nil {
		_ = c.process.Kill() // where there are no signals; or it has ended
	}
}

// kill ends it as a crash does, and waits for that.
func (c *child) kill() {
	c.asked.Store(true)
	_ = c.process.Kill() // an error says that it has ended
	<-c.done
}

// how says how it ended, which it has.
func (c *child) how() string {
	if c.err != nil {
		return c.err.Error()
	}
	return "exit status 0"
}

// fate is how, with the end of its log.
func (c *child) fate() string { return c.how() + c.tail() }

// portTaken reports whether it ended, which it has, because of that.
func (c *child) portTaken() bool {
	return strings.Contains(c.tail(), syscall.EADDRINUSE.Error())
}

// The end of a log, as errors show it.
const (
	tailLines = 15
	tailBytes = 4096
)

// tail is the end of what it logged, to be appended to an error.
func (c *child) tail() string {
	text, err := readTail(c.log, c.from)
	switch {
	case err != nil:
		return fmt.Sprintf("; its log cannot be read: %v", err)
	case text == "":
		return "; it logged nothing"
	}
	return "; the end of its log:\n" + text
}

// readTail returns the last lines of a file, indented, and none before from.
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
		lines = lines[1:] // the end of a line
	}
	lines = lines[max(0, len(lines)-tailLines):]
	if len(bytes.TrimSpace(text)) == 0 {
		return "", nil
	}
	return "    " + string(bytes.Join(lines, []byte("\n    "))), nil
}
