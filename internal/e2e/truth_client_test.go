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
)

// made is what the caller saw of a call.
type made struct {
	status   int
	received atomic.Int64 // pieces with text
	ended    bool         // the answer came to its end
	err      error
}

// modelCaller makes calls through proxies.
type modelCaller struct {
	client *http.Client
}

func newModelCaller() *modelCaller {
	return &modelCaller{client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}}
}

// do makes a call, at the first of several proxies that can be reached. A caller
// who leaves does so after as many pieces as the call says.
func (m *modelCaller) do(ctx context.Context, c *modelCall, seen *made, proxies ...string) {
	ctx, leave := context.WithTimeout(ctx, 2*patience)
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
	if c.door == whole || response.StatusCode != http.StatusOK {
		_, seen.err = io.Copy(io.Discard, response.Body)
		seen.ended = seen.err == nil
		return
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		seen.ended = seen.ended || line == "data: [DONE]" || strings.Contains(line, `"type":"message_stop"`)
		if !c.piece(line) {
			continue
		}
		if n := seen.received.Add(1); n == c.after && (c.fate == leaves || c.fate == runs || c.fate == drained) {
			return
		}
	}
	seen.err = lines.Err()
}

// piece reports whether a line has text of the answer.
func (c *modelCall) piece(line string) bool {
	switch c.door {
	case messaging:
		return strings.Contains(line, `"text_delta"`)
	case tokenIDs:
		return strings.Contains(line, `"text":"`) && !strings.Contains(line, `"text":""`)
	}
	return strings.Contains(line, `"delta":{"content":"`)
}

// want says what is wrong with what the caller saw.
func (c *modelCall) want(seen *made) error {
	status, ended := http.StatusOK, c.fate == finishes || c.fate == untold
	if c.fate == fails {
		status, ended = c.status, true
	}
	if seen.status != status || seen.ended != ended || ended && seen.err != nil {
		return errors.Join(fmt.Errorf("%s, a %s that %s: status %d, ended %v; want status %d, ended %v", c.label, c.door, c.fate, seen.status, seen.ended, status, ended), seen.err)
	}
	if c.after > 0 && c.fate != surprised && seen.received.Load() != c.after {
		return fmt.Errorf("%s, a %s that %s: %d pieces, want %d", c.label, c.door, c.fate, seen.received.Load(), c.after)
	}
	return nil
}

// slow is how often a condition is looked at that costs something.
const slow = 50 * time.Millisecond
