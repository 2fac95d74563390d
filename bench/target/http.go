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
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/internal/tokenfile"
)

var (
	httpKind = Kind{
		Name: "http", Syntax: "http://HOST:PORT",
		Measures:    "bucketring through its JSON API: one HTTP/1.1 request per check, reserve or settle to one node, on keep-alive connections.",
		Limitations: "Most of its cost is HTTP and JSON on both sides. Nothing is retried. Its answers do not say whether they are replays, nor enough about limits to read their usage. After refusals because of overload it holds back calls, as callers should. So it does if calls have waited for a free connection for 200 ms, or more than 1,024 wait: these count as refused too.",
	}
	httpsKind = Kind{
		Name: "https", Syntax: "https://HOST:PORT",
		Measures: httpKind.Measures, Limitations: httpKind.Limitations + tlsLimitation,
	}
)

// httpTarget uses the JSON API.
type httpTarget struct {
	base
	root     string
	client   *http.Client
	conns    *connections
	throttle *throttle
	token    *tokenfile.Source // nil: none
}

func openHTTP(k *kind, rest string, o Options) (builtin, error) {
	encrypted := k.Name == "https"
	if !encrypted && o.TLS != nil {
		return nil, errors.New("tls: must not be set for http://; for TLS, use https://")
	}
	if n := len(rest); n > 0 && rest[n-1] == '/' {
		rest = rest[:n-1]
	}
	allowed := o
	allowed.Insecure = o.Insecure || encrypted
	at, err := parseAddress(k.Name, rest, "6470", allowed)
	if err != nil {
		return nil, err
	}
	count := o.Connections
	if count == 0 {
		count = DefaultConnections
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:     o.TLS,
		TLSHandshakeTimeout: 5 * time.Second,
		DisableCompression:  true,
		// All connections are to one host. They stay open between two bursts, and a
		// stalled node does not make the client open one for every waiting call.
		MaxIdleConns:        count,
		MaxIdleConnsPerHost: count,
		MaxConnsPerHost:     count,
		IdleConnTimeout:     time.Minute,
	}
	root := k.Name + "://" + at
	return &httpTarget{newBase(k, root, o), root, &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, newConnections(count), newThrottle(), o.Token}, nil
}

func (w *httpTarget) describe() string { return "" }

func (w *httpTarget) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	return w.send(ctx, http.MethodGet, "/readyz", nil, nil)
}

// The bodies of the API, with the fields that are used here.
type (
	checkBody struct {
		Key          string `json:"key"`
		Tier         string `json:"tier,omitempty"`
		Model        string `json:"model,omitempty"`
		Requests     int64  `json:"requests"`
		InputTokens  int64  `json:"input_tokens"`
		OutputTokens int64  `json:"output_tokens"`
		RequestID    string `json:"request_id,omitempty"`
	}
	reserveBody struct {
		Key             string `json:"key"`
		Tier            string `json:"tier,omitempty"`
		Model           string `json:"model,omitempty"`
		Requests        int64  `json:"requests"`
		InputTokens     int64  `json:"input_tokens"`
		MaxOutputTokens int64  `json:"max_output_tokens"`
		TTLSeconds      int64  `json:"ttl_seconds,omitempty"`
		RequestID       string `json:"request_id,omitempty"`
	}
	settleBody struct {
		Key          string `json:"key"`
		RequestID    string `json:"request_id"`
		InputTokens  int64  `json:"input_tokens"`
		OutputTokens int64  `json:"output_tokens"`
		Final        bool   `json:"final"`
	}
	decisionBody struct {
		Outcome   string `json:"outcome"`
		Reason    string `json:"reason"`
		RequestID string `json:"request_id"`
		Granted   int64  `json:"granted_output_tokens"`
		Owner     string `json:"owner"`
		Route     string `json:"route"`
	}
	settlementBody struct {
		Owner string `json:"owner"`
		Route string `json:"route"`
	}
	errorBody struct {
		Code    string `json:"error"`
		Message string `json:"message"`
	}
)

// Check implements [bench.Target].
func (w *httpTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	return w.decide(ctx, "/v1/check", &checkBody{
		Key: c.Key, Tier: c.Tier, Model: c.Model, RequestID: w.checkID(c),
		Requests: requestsOf(c), InputTokens: c.InputTokens, OutputTokens: c.OutputTokens,
	})
}

// Reserve implements [bench.Target].
func (w *httpTarget) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	return w.decide(ctx, "/v1/reserve", &reserveBody{
		Key: c.Key, Tier: c.Tier, Model: c.Model, RequestID: c.ID,
		Requests: requestsOf(c), InputTokens: c.InputTokens, MaxOutputTokens: c.MaxOutputTokens, TTLSeconds: leaseSeconds(c),
	})
}

// Settle implements [bench.Target].
func (w *httpTarget) Settle(ctx context.Context, u bench.Usage) (bench.Answer, error) {
	ctx, cancel := w.withTimeout(ctx)
	defer cancel()
	if err := w.conns.acquire(ctx, w.throttle.now(), true); err != nil {
		return bench.Answer{}, connError(ctx, "/v1/settle", err)
	}
	defer w.conns.release()
	var s settlementBody
	err := w.send(ctx, http.MethodPost, "/v1/settle", &settleBody{
		Key: u.Key, RequestID: u.ID, InputTokens: u.InputTokens, OutputTokens: u.OutputTokens, Final: u.Final,
	}, &s)
	return bench.Answer{Route: s.Route, Owner: s.Owner}, err
}

// Close implements [bench.Target].
func (w *httpTarget) Close() error {
	w.client.CloseIdleConnections()
	return nil
}

func (w *httpTarget) decide(ctx context.Context, path string, body any) (bench.Answer, error) {
	if err := w.throttle.admit(); err != nil {
		return bench.Answer{}, err
	}
	ctx, cancel := w.withTimeout(ctx)
	defer cancel()
	var d decisionBody
	err := w.exchange(ctx, path, body, &d)
	w.throttle.observe(err)
	if err != nil {
		return bench.Answer{}, err
	}
	outcome, err := parseOutcome(d.Outcome)
	if err != nil {
		return bench.Answer{}, fmt.Errorf("%s: %w", path, err)
	}
	return bench.Answer{Outcome: outcome, Reason: d.Reason, ID: d.RequestID, GrantedOutputTokens: d.Granted, Route: d.Route, Owner: d.Owner}, nil
}

// exchange sends a check or reserve when a connection is free.
func (w *httpTarget) exchange(ctx context.Context, path string, body any, d *decisionBody) error {
	switch err := w.conns.acquire(ctx, w.throttle.now(), false); {
	case errors.Is(err, bench.ErrOverloaded):
		return err
	case err != nil:
		return connError(ctx, path, err)
	}
	defer w.conns.release()
	return w.send(ctx, http.MethodPost, path, body, d)
}

// maxResponseBytes bounds how much of a response is read.
const maxResponseBytes = 1 << 20

// send sends body and decodes the response into out, unless that is nil. Status 429
// is an answer if out is a decision, and an error otherwise. A refusal because of overload
// is a [bench.OverloadedError].
func (w *httpTarget) send(ctx context.Context, method, path string, body, out any) error {
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		payload = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, w.root+path, payload)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if w.token != nil {
		header, err := w.token.Header()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		request.Header.Set("Authorization", header)
	}
	response, err := w.client.Do(request)
	if err != nil {
		return connError(ctx, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxResponseBytes)) // to the end, so that the connection can be reused
	if err != nil {
		return connError(ctx, path, err)
	}
	_, decision := out.(*decisionBody)
	if code := response.StatusCode; code != http.StatusOK && (code != http.StatusTooManyRequests || !decision) {
		var p errorBody
		if json.Unmarshal(text, &p) != nil || p.Code == "" {
			return fmt.Errorf("%s: status %d without the error body of a bucketring node: %s", path, code, firstLine(text))
		}
		if code == http.StatusServiceUnavailable && p.Code == "overloaded" {
			seconds, _ := strconv.Atoi(response.Header.Get("Retry-After")) // 0 if it is missing
			return &bench.OverloadedError{RetryAfter: time.Duration(seconds) * time.Second}
		}
		return fmt.Errorf("%s: status %d: %s: %s", path, code, p.Code, p.Message)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s: decode a response of %d bytes: %w", path, len(text), err)
	}
	return nil
}

// firstLine returns the first line of a response, quoted and cut at 100 characters.
func firstLine(text []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(text), []byte("\n"))
	return fmt.Sprintf("%.100q", line)
}

// connError wraps an error of a connection, which may be the timeout of ctx.
func connError(ctx context.Context, what string, err error) error {
	var slow net.Error
	return wrapError(what, err, ctx.Err() == context.DeadlineExceeded || errors.As(err, &slow) && slow.Timeout())
}
