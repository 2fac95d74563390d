// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bucketring/bucketring/bench"
)

const llmMeasures = "Calls to a model, as an application makes them, straight to a model server or through what is in front of it: a reserve is a streamed call until its first byte, its settle the rest of that stream, and a check a whole call that is not streamed. "

const llmLeaves = "Its latencies have those of the model in them, so it is for comparing two ways to one model. Prompts have 4 bytes for each input token of the workload; --llm says how calls begin and how large max_tokens is, but the model how fast it is, and how long its answers are, unless it is bucketring mock-llm. Nothing is asked again, a second call with one id is a second call to the model, and the answers do not tell what was used."

var (
	openAIKind = Kind{
		Name: "openai", Form: "openai:http://HOST:PORT", Calls: true,
		Measures: llmMeasures + "Chat completions, as OpenAI's API has them.", Leaves: llmLeaves,
	}
	anthropicKind = Kind{
		Name: "anthropic", Form: "anthropic:http://HOST:PORT", Calls: true,
		Measures: llmMeasures + "Messages, as Anthropic's API has them.", Leaves: llmLeaves,
	}
)

// llmDialect is how an API of models is spoken.
type llmDialect struct {
	path string
	last string // in the last event of a stream that is whole
}

var (
	openAIDialect    = llmDialect{"/v1/chat/completions", "data: [DONE]"}
	anthropicDialect = llmDialect{"/v1/messages", `"message_stop"`}
)

// model calls one.
type model struct {
	base
	llmDialect
	root   string
	client *http.Client
	key    string // header that has the key of the call

	life context.Context // of all calls; ends with Close
	end  context.CancelFunc

	mu struct {
		sync.Mutex
		streams map[string]*answering // by id, until they are settled
		calls   int64                 // so far
	}
}

// answering is a stream whose first byte was read.
type answering struct {
	body   io.ReadCloser
	tail   []byte // the end of what was read
	cancel context.CancelFunc
}

func openLLM(k *kind, rest string, o Options) (opened, error) {
	scheme, where, found := strings.Cut(rest, "://")
	if !found || scheme != "http" && scheme != "https" {
		return nil, fmt.Errorf("must be %s", k.Form)
	}
	if scheme == "http" && o.TLS != nil {
		return nil, fmt.Errorf("tls: must not be set for %s:http://; for TLS, use %[1]s:https://", k.Name)
	}
	port, encrypted := "80", scheme == "https"
	if encrypted {
		port = "443"
	}
	allowed := o
	allowed.Insecure = o.Insecure || encrypted
	at, err := only(k.Name+":"+scheme, strings.TrimSuffix(where, "/"), port, allowed)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:     o.TLS,
		TLSHandshakeTimeout: 5 * time.Second,
		DisableCompression:  true,
		// As many as calls under way: each stream has one until it ends.
		MaxIdleConns:        mostStreams,
		MaxIdleConnsPerHost: mostStreams,
		MaxConnsPerHost:     o.Connections,
		IdleConnTimeout:     time.Minute,
	}
	dialect := openAIDialect
	if k.Name == anthropicKind.Name {
		dialect = anthropicDialect
	}
	m := &model{
		base: base{k, k.Name + ":" + scheme + "://" + at, o.Timeout}, llmDialect: dialect, root: scheme + "://" + at, key: o.KeyHeader,
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	m.life, m.end = context.WithCancel(context.Background())
	m.mu.streams = make(map[string]*answering)
	return m, nil
}

// mostStreams is how many connections are kept.
const mostStreams = 10_000

func (m *model) describe() string {
	return fmt.Sprintf("The key of a call is in the header %s, and as a bearer token.", m.key)
}

// ready asks for the models, which costs nothing. Any answer but that of a server
// that is not there will do: not all have a list of models.
func (m *model) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, m.root+"/v1/models", nil)
	if err != nil {
		return err
	}
	response, err := m.client.Do(r)
	if err != nil {
		return late(ctx, "/v1/models", err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, largest)); err != nil {
		return late(ctx, "/v1/models", err)
	}
	switch response.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("/v1/models: status %d", response.StatusCode)
	}
	return nil
}

// Check implements [bench.Target]: a call that is not streamed, to its end.
func (m *model) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	response, answer, err := m.call(ctx, c, c.OutputTokens, false)
	if err != nil || response == nil {
		return answer, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return bench.Answer{}, late(ctx, m.path, err)
	}
	if !json.Valid(text) {
		return bench.Answer{}, fmt.Errorf("%s: answer of %d bytes is not JSON", m.path, len(text))
	}
	return answer, nil
}

// Reserve implements [bench.Target]: a call that is streamed, until its first
// byte. The rest comes with the settle.
func (m *model) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	ctx, done := m.bounded(ctx)
	defer done()
	// The call goes on when ctx, which is for this question only, has ended.
	life, cancel := context.WithCancel(m.life)
	unbound := context.AfterFunc(ctx, cancel)
	response, answer, err := m.call(life, c, c.MaxOutputTokens, true)
	if err != nil || response == nil {
		cancel()
		if err != nil && ctx.Err() != nil {
			err = late(ctx, m.path, err)
		}
		return answer, err
	}
	s := &answering{body: response.Body, cancel: cancel}
	first := make([]byte, 512)
	n, err := response.Body.Read(first)
	for n == 0 && err == nil {
		n, err = response.Body.Read(first)
	}
	s.keep(first[:n])
	if !unbound() && err == nil {
		err = context.Cause(ctx)
	}
	if n == 0 || err != nil && !errors.Is(err, io.EOF) {
		cancel()
		_ = response.Body.Close()
		return bench.Answer{}, late(ctx, m.path, fmt.Errorf("before the first byte: %w", err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.calls++
	answer.ID = c.ID + "#" + strconv.FormatInt(m.mu.calls, 10)
	m.mu.streams[answer.ID] = s
	return answer, nil
}

// Settle implements [bench.Target]: the final one is there when the stream has
// ended.
func (m *model) Settle(ctx context.Context, u bench.Usage) (bench.Answer, error) {
	if !u.Final {
		return bench.Answer{}, nil
	}
	m.mu.Lock()
	s := m.mu.streams[u.ID]
	delete(m.mu.streams, u.ID)
	m.mu.Unlock()
	if s == nil {
		return bench.Answer{}, fmt.Errorf("settle: there is no call %q", u.ID)
	}
	ctx, done := m.bounded(ctx)
	defer done()
	defer s.cancel()
	defer context.AfterFunc(ctx, s.cancel)()
	defer s.body.Close()
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for {
		n, err := s.body.Read(*buffer)
		s.keep((*buffer)[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bench.Answer{}, late(ctx, m.path+": the stream broke", err)
		}
	}
	if !bytes.Contains(s.tail, []byte(m.last)) {
		return bench.Answer{}, fmt.Errorf("%s: the stream ended without %s", m.path, m.last)
	}
	return bench.Answer{}, nil
}

// buffers are for reading; they hold *[]byte.
var buffers = sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }}

// tailBytes is enough for the last event of a stream.
const tailBytes = 256

func (s *answering) keep(p []byte) {
	s.tail = append(s.tail, p[max(0, len(p)-tailBytes):]...)
	s.tail = append(s.tail[:0], s.tail[max(0, len(s.tail)-tailBytes):]...)
}

// Close implements [bench.Target]. It breaks off what was not settled.
func (m *model) Close() error {
	m.end()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, s := range m.mu.streams {
		s.cancel()
		_ = s.body.Close()
		delete(m.mu.streams, id)
	}
	m.client.CloseIdleConnections()
	return nil
}

// bytesPerToken is how long the prompt is made.
const bytesPerToken = 4

// filler is what prompts are cut from.
var filler = strings.Repeat("tok ", 4096)

// body is a call of so many input tokens.
func (m *model) body(c *bench.Call, most int64, stream bool) []byte {
	name := c.Model
	if name == "" {
		name = "mock-small"
	}
	quoted, err := json.Marshal(name)
	if err != nil {
		quoted = []byte(`""`)
	}
	b := make([]byte, 0, 256+bytesPerToken*max(c.InputTokens, 0))
	b = append(append(b, `{"model":`...), quoted...)
	b = strconv.AppendInt(append(b, `,"max_tokens":`...), max(most, 1), 10)
	b = strconv.AppendBool(append(b, `,"stream":`...), stream)
	b = append(b, `,"messages":[{"role":"user","content":"`...)
	for left := bytesPerToken * max(c.InputTokens, 1); left > 0; left -= int64(len(filler)) {
		b = append(b, filler[:min(left, int64(len(filler)))]...)
	}
	return append(b, `"}]}`...)
}

// call sends one. Without a response the answer is a denial.
func (m *model) call(ctx context.Context, c *bench.Call, most int64, stream bool) (*http.Response, bench.Answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.root+m.path, bytes.NewReader(m.body(c, most, stream)))
	if err != nil {
		return nil, bench.Answer{}, fmt.Errorf("%s: %w", m.path, err)
	}
	h := r.Header
	h.Set("Content-Type", "application/json")
	h.Set("Authorization", "Bearer "+c.Key)
	h.Set(m.key, c.Key)
	if m.kind.Name == anthropicKind.Name {
		h.Set("Anthropic-Version", "2023-06-01")
	}
	// Servers that have a model don't know these.
	h.Set("X-Mock-Input-Tokens", strconv.FormatInt(c.InputTokens, 10))
	h.Set("X-Mock-Output-Tokens", strconv.FormatInt(c.OutputTokens, 10))
	response, err := m.client.Do(r)
	if err != nil {
		return nil, bench.Answer{}, late(ctx, m.path, err)
	}
	if response.StatusCode == http.StatusOK {
		return response, granted(response.Header, c, most), nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, largest))
	if err != nil {
		return nil, bench.Answer{}, late(ctx, m.path, err)
	}
	reason, message := problemOf(text)
	if response.StatusCode == http.StatusTooManyRequests {
		return nil, bench.Answer{Outcome: bench.Denied, Reason: reason, ID: c.ID}, nil
	}
	return nil, bench.Answer{}, fmt.Errorf("%s: status %d: %s: %s", m.path, response.StatusCode, reason, message)
}

// granted is the answer of a call that runs.
func granted(h http.Header, c *bench.Call, most int64) bench.Answer {
	a := bench.Answer{Outcome: bench.Allowed, ID: c.ID, GrantedOutputTokens: most}
	if n, err := strconv.ParseInt(h.Get("X-Bucketring-Granted-Max-Tokens"), 10, 64); err == nil && n < most {
		a.Outcome, a.GrantedOutputTokens = bench.Degraded, n
	}
	return a
}

// problemOf reads the error of either API.
func problemOf(text []byte) (reason, message string) {
	var body struct {
		Error struct {
			Type, Reason, Message string
			Code                  any
		}
	}
	if json.Unmarshal(text, &body) != nil {
		return "error", "the body is not an error of an API of models"
	}
	e := body.Error
	if code, ok := e.Code.(string); ok && code != "" {
		return code, e.Message
	}
	if e.Reason != "" {
		return e.Reason, e.Message
	}
	return e.Type, e.Message
}
