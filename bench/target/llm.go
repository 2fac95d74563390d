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

const llmMeasures = "Calls to a model as an application makes them, to a model server or through a proxy: a reserve is a streamed call until its first byte, its final settle the rest of that stream, and a check a whole call that is not streamed. "

const llmLimitations = "The latencies include those of the model, so use it to compare two paths to the same model. Prompts have 4 bytes for each input token of the workload. --llm sets when calls begin and their max_tokens; the model decides how fast it answers and how long its answers are, unless it is bucketring mock-llm. Nothing is retried, a second call with the same id is a second call to the model, and answers do not report usage."

var (
	openAIKind = Kind{
		Name: "openai", Syntax: "openai:http://HOST:PORT", CallsModel: true,
		Measures: llmMeasures + "It uses the chat completions of OpenAI's API.", Limitations: llmLimitations,
	}
	anthropicKind = Kind{
		Name: "anthropic", Syntax: "anthropic:http://HOST:PORT", CallsModel: true,
		Measures: llmMeasures + "It uses the messages of Anthropic's API.", Limitations: llmLimitations,
	}
)

// llmDialect is the API of a model.
type llmDialect struct {
	path      string
	endMarker string // part of the last event of a complete stream
}

var (
	openAIDialect    = llmDialect{"/v1/chat/completions", "data: [DONE]"}
	anthropicDialect = llmDialect{"/v1/messages", `"message_stop"`}
)

// llmTarget calls a model.
type llmTarget struct {
	base
	llmDialect
	root      string
	client    *http.Client
	keyHeader string // header that has the key of the call

	ctx    context.Context // parent of the contexts of all streams; ends with Close
	cancel context.CancelFunc

	mu struct {
		sync.Mutex
		streams map[string]*stream // by id, until they are settled
		calls   int64              // reserved so far; makes ids unique
	}
}

// stream is a streamed call whose first byte has arrived.
type stream struct {
	body   io.ReadCloser
	tail   []byte // the last tailBytes that were read
	cancel context.CancelFunc
}

func openLLM(k *kind, rest string, o Options) (builtin, error) {
	scheme, where, found := strings.Cut(rest, "://")
	if !found || scheme != "http" && scheme != "https" {
		return nil, fmt.Errorf("must be %s", k.Syntax)
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
	at, err := parseAddress(k.Name+":"+scheme, strings.TrimSuffix(where, "/"), port, allowed)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:     o.TLS,
		TLSHandshakeTimeout: 5 * time.Second,
		DisableCompression:  true,
		// One connection per call in flight: a stream keeps its own until it ends.
		MaxIdleConns:        maxIdleConns,
		MaxIdleConnsPerHost: maxIdleConns,
		MaxConnsPerHost:     o.Connections,
		IdleConnTimeout:     time.Minute,
	}
	dialect := openAIDialect
	if k.Name == anthropicKind.Name {
		dialect = anthropicDialect
	}
	m := &llmTarget{
		base: newBase(k, k.Name+":"+scheme+"://"+at, o), llmDialect: dialect, root: scheme + "://" + at, keyHeader: o.KeyHeader,
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.mu.streams = make(map[string]*stream)
	return m, nil
}

// maxIdleConns is how many idle connections are kept.
const maxIdleConns = 10_000

func (m *llmTarget) describe() string {
	return fmt.Sprintf("The key of a call is sent in the header %s and as a bearer token.", m.keyHeader)
}

// ready asks for the list of models, which costs nothing. Any response shows that the
// server is up, except a gateway error: not all servers have that list.
func (m *llmTarget) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, m.root+"/v1/models", nil)
	if err != nil {
		return err
	}
	response, err := m.client.Do(r)
	if err != nil {
		return connError(ctx, "/v1/models", err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, maxResponseBytes)); err != nil {
		return connError(ctx, "/v1/models", err)
	}
	switch response.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("/v1/models: status %d", response.StatusCode)
	}
	return nil
}

// Check implements [bench.Target] with a call that is not streamed.
func (m *llmTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	ctx, cancel := m.withTimeout(ctx)
	defer cancel()
	response, answer, err := m.call(ctx, c, c.OutputTokens, false)
	if err != nil || response == nil {
		return answer, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return bench.Answer{}, connError(ctx, m.path, err)
	}
	if !json.Valid(text) {
		return bench.Answer{}, fmt.Errorf("%s: response of %d bytes is not JSON", m.path, len(text))
	}
	return answer, nil
}

// Reserve implements [bench.Target]. It starts a streamed call and returns with its
// first byte; Settle reads the rest.
func (m *llmTarget) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	ctx, done := m.withTimeout(ctx)
	defer done()
	// The stream must outlive ctx, which is for this request only.
	streamCtx, cancel := context.WithCancel(m.ctx)
	detach := context.AfterFunc(ctx, cancel)
	response, answer, err := m.call(streamCtx, c, c.MaxOutputTokens, true)
	if err != nil || response == nil {
		cancel()
		if err != nil && ctx.Err() != nil {
			err = connError(ctx, m.path, err)
		}
		return answer, err
	}
	s := &stream{body: response.Body, cancel: cancel}
	first := make([]byte, 512)
	n, err := response.Body.Read(first)
	for n == 0 && err == nil {
		n, err = response.Body.Read(first)
	}
	s.appendTail(first[:n])
	if !detach() && err == nil {
		err = context.Cause(ctx)
	}
	if n == 0 || err != nil && !errors.Is(err, io.EOF) {
		cancel()
		_ = response.Body.Close()
		return bench.Answer{}, connError(ctx, m.path, fmt.Errorf("no first byte: %w", err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.calls++
	answer.ID = c.ID + "#" + strconv.FormatInt(m.mu.calls, 10)
	m.mu.streams[answer.ID] = s
	return answer, nil
}

// Settle implements [bench.Target]. The final settle returns when the stream has
// ended; progress does nothing.
func (m *llmTarget) Settle(ctx context.Context, u bench.Usage) (bench.Answer, error) {
	if !u.Final {
		return bench.Answer{}, nil
	}
	m.mu.Lock()
	s := m.mu.streams[u.ID]
	delete(m.mu.streams, u.ID)
	m.mu.Unlock()
	if s == nil {
		return bench.Answer{}, fmt.Errorf("settle: unknown call %q", u.ID)
	}
	ctx, done := m.withTimeout(ctx)
	defer done()
	defer s.cancel()
	defer context.AfterFunc(ctx, s.cancel)()
	defer s.body.Close()
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for {
		n, err := s.body.Read(*buffer)
		s.appendTail((*buffer)[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bench.Answer{}, connError(ctx, m.path+": read stream", err)
		}
	}
	if !bytes.Contains(s.tail, []byte(m.endMarker)) {
		return bench.Answer{}, fmt.Errorf("%s: the stream ended without %s", m.path, m.endMarker)
	}
	return bench.Answer{}, nil
}

// buffers are for reading; they hold *[]byte.
var buffers = sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }}

// tailBytes is enough to hold the last event of a stream.
const tailBytes = 256

func (s *stream) appendTail(p []byte) {
	s.tail = append(s.tail, p[max(0, len(p)-tailBytes):]...)
	s.tail = append(s.tail[:0], s.tail[max(0, len(s.tail)-tailBytes):]...)
}

// Close implements [bench.Target]. It ends calls that were not settled.
func (m *llmTarget) Close() error {
	m.cancel()
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

// bytesPerToken is the length of a prompt per input token.
const bytesPerToken = 4

// filler is the text of prompts.
var filler = strings.Repeat("tok ", 4096)

// body returns the request for a call with up to maxTokens output tokens.
func (m *llmTarget) body(c *bench.Call, maxTokens int64, stream bool) []byte {
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
	b = strconv.AppendInt(append(b, `,"max_tokens":`...), max(maxTokens, 1), 10)
	b = strconv.AppendBool(append(b, `,"stream":`...), stream)
	b = append(b, `,"messages":[{"role":"user","content":"`...)
	for left := bytesPerToken * max(c.InputTokens, 1); left > 0; left -= int64(len(filler)) {
		b = append(b, filler[:min(left, int64(len(filler)))]...)
	}
	return append(b, `"}]}`...)
}

// call sends a call. It returns no response if the call was denied.
func (m *llmTarget) call(ctx context.Context, c *bench.Call, maxTokens int64, stream bool) (*http.Response, bench.Answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.root+m.path, bytes.NewReader(m.body(c, maxTokens, stream)))
	if err != nil {
		return nil, bench.Answer{}, fmt.Errorf("%s: %w", m.path, err)
	}
	h := r.Header
	h.Set("Content-Type", "application/json")
	h.Set("Authorization", "Bearer "+c.Key)
	h.Set(m.keyHeader, c.Key)
	if m.kind.Name == anthropicKind.Name {
		h.Set("Anthropic-Version", "2023-06-01")
	}
	// Only bucketring mock-llm knows these.
	h.Set("X-Mock-Input-Tokens", strconv.FormatInt(c.InputTokens, 10))
	h.Set("X-Mock-Output-Tokens", strconv.FormatInt(c.OutputTokens, 10))
	response, err := m.client.Do(r)
	if err != nil {
		return nil, bench.Answer{}, connError(ctx, m.path, err)
	}
	if response.StatusCode == http.StatusOK {
		return response, allowedAnswer(response.Header, c, maxTokens), nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxResponseBytes))
	if err != nil {
		return nil, bench.Answer{}, connError(ctx, m.path, err)
	}
	reason, message := parseError(text)
	if response.StatusCode == http.StatusTooManyRequests {
		return nil, bench.Answer{Outcome: bench.Denied, Reason: reason, ID: c.ID}, nil
	}
	return nil, bench.Answer{}, fmt.Errorf("%s: status %d: %s: %s", m.path, response.StatusCode, reason, message)
}

// allowedAnswer returns the answer to a call that the server accepted. Its grant may
// be smaller than maxTokens.
func allowedAnswer(h http.Header, c *bench.Call, maxTokens int64) bench.Answer {
	a := bench.Answer{Outcome: bench.Allowed, ID: c.ID, GrantedOutputTokens: maxTokens}
	if n, err := strconv.ParseInt(h.Get("X-Bucketring-Granted-Max-Tokens"), 10, 64); err == nil && n < maxTokens {
		a.Outcome, a.GrantedOutputTokens = bench.Degraded, n
	}
	return a
}

// parseError reads the error body of either API.
func parseError(text []byte) (reason, message string) {
	var body struct {
		Error struct {
			Type, Reason, Message string
			Code                  any
		}
	}
	if json.Unmarshal(text, &body) != nil {
		return "error", "the body is not an error of a model API"
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
