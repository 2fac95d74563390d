// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
)

// observed is what the caller saw of a call.
type observed struct {
	status   int
	received atomic.Int64 // chunks with text
	ended    bool         // the answer was complete
	err      error
}

// modelCaller makes calls through proxies.
type modelCaller struct {
	client *http.Client
}

func newModelCaller() *modelCaller {
	return &modelCaller{client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}}
}

// do makes a call at the first of several proxies that can be reached. If the fate
// of the call is that its caller leaves, do returns after c.after chunks.
func (m *modelCaller) do(ctx context.Context, c *modelCall, seen *observed, proxies ...string) {
	ctx, leave := context.WithTimeout(ctx, 2*waittest.Limit)
	defer leave()
	var response *http.Response
	for _, proxy := range proxies {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+proxy+c.path(), strings.NewReader(c.body()))
		if err != nil {
			seen.err = err
			return
		}
		r.Header.Set("Content-Type", "application/json")
		for name, value := range c.headers() {
			r.Header.Set(name, value)
		}
		if response, err = m.client.Do(r); !errors.Is(err, syscall.ECONNREFUSED) { //nolint:bodyclose // below
			seen.err = err
			break
		}
	}
	if response == nil {
		return
	}
	defer response.Body.Close()
	seen.status = response.StatusCode
	if c.endpoint == whole || response.StatusCode != http.StatusOK {
		_, seen.err = io.Copy(io.Discard, response.Body)
		seen.ended = seen.err == nil
		return
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		seen.ended = seen.ended || line == "data: [DONE]" || strings.Contains(line, `"type":"message_stop"`)
		if !c.hasText(line) {
			continue
		}
		if n := seen.received.Add(1); n == c.after && (c.fate == leaves || c.fate == runs || c.fate == drained) {
			return
		}
	}
	seen.err = lines.Err()
}

// hasText reports whether a line has text of the answer.
func (c *modelCall) hasText(line string) bool {
	switch c.endpoint {
	case messaging:
		return strings.Contains(line, `"text_delta"`)
	case tokenIDs:
		return strings.Contains(line, `"text":"`) && !strings.Contains(line, `"text":""`)
	}
	return strings.Contains(line, `"delta":{"content":"`)
}

// want returns an error unless the caller saw what the fate implies.
func (c *modelCall) want(seen *observed) error {
	status, ended := http.StatusOK, c.fate == finishes || c.fate == noUsage
	if c.fate == fails {
		status, ended = c.status, true
	}
	if seen.status != status || seen.ended != ended || ended && seen.err != nil {
		return errors.Join(fmt.Errorf("%s, a %s that %s: status %d, ended %v; want status %d, ended %v", c.label, c.endpoint, c.fate, seen.status, seen.ended, status, ended), seen.err)
	}
	if c.after > 0 && c.fate != killedRunning && seen.received.Load() != c.after {
		return fmt.Errorf("%s, a %s that %s: %d chunks, want %d", c.label, c.endpoint, c.fate, seen.received.Load(), c.after)
	}
	return nil
}

// slowPoll is the interval between checks of an expensive condition.
const slowPoll = 50 * time.Millisecond
