// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
)

// lockedBuffer is a buffer for concurrent use.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Durations in JSON have their unit in the key.
func TestDurationsInLogsHaveUnits(t *testing.T) {
	var out bytes.Buffer
	s := streams{err: &out}
	slog.New(s.logHandler("json", "info")).With("drain_delay", 2*time.Second).Info("step done", "duration", 1500*time.Microsecond, "count", 3)
	if text := out.String(); !strings.Contains(text, `"drain_delay_ms":2000,"duration_ms":1.5,"count":3}`) {
		t.Errorf("logged %s, want durations in milliseconds", text)
	}
}

// A server that sends more than its response makes net/http log what it sent.
func TestLibrariesDoNotLogResponses(t *testing.T) {
	flags, output := log.Flags(), log.Writer()
	t.Cleanup(func() { log.SetFlags(flags); log.SetOutput(output) })
	var out lockedBuffer
	s := streams{err: &out}
	s.logger("json", "info")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	finished := make(chan struct{})
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, err := c.Read(make([]byte, 4096)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			<-finished
			_, _ = io.WriteString(c, `{"content":"a secret answer"}`)
			_, _ = c.Read(make([]byte, 1))
		}
	}()
	client := http.Client{Transport: new(http.Transport)}
	res, err := client.Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Fatal(err)
	}
	close(finished)
	waittest.Until(t, "a line of net/http in the log", func() bool { return strings.Contains(out.String(), "Unsolicited response") })
	if line := out.String(); strings.Contains(line, "secret") || !strings.Contains(line, `"level":"WARN"`) {
		t.Errorf("got %s, want a warning without the response", line)
	}
}
