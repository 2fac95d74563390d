// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"context"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// users are the callers of the examples, by credential.
var users = map[string]string{"Bearer sk-alice": "alice"}

func userOf(context.Context) string { return "alice" }

// exampleClient returns a client of a new node.
func exampleClient() (c *client.Client, stop func()) {
	n, err := newNode()
	if err != nil {
		panic(err)
	}
	c, err = client.Dial(client.Options{Addrs: []string{n.addr}})
	if err != nil {
		panic(err)
	}
	return c, func() {
		_ = c.Close()
		n.server.Stop()
	}
}

// exampleService serves a model over gRPC in memory.
func exampleService(options ...grpc.ServerOption) (conn *grpc.ClientConn, stop func()) {
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer(options...)
	s.RegisterService(&modelService, &model{complete: func(ctx context.Context, in *text) (*text, error) {
		call, _ := middleware.FromContext(ctx)
		var answer strings.Builder
		for token := range own.Generate(ctx, in.GetValue(), call.Granted()) {
			answer.WriteString(token.Text)
			call.SetUsage(client.Usage{InputTokens: new(token.Input), OutputTokens: new(token.Output)})
		}
		return &text{Value: answer.String()}, nil
	}})
	go func() { _ = s.Serve(l) }()
	conn, err := dialBuffer(l)
	if err != nil {
		panic(err)
	}
	return conn, func() {
		_ = conn.Close()
		s.Stop()
	}
}

// usedTokens returns how many tokens acme/alice has used.
func usedTokens(c *client.Client) int64 {
	s, err := c.Peek(context.Background(), client.Query{Key: "acme/alice"})
	if err != nil {
		panic(err)
	}
	for _, l := range s.Limits {
		if l.Name == "tokens" {
			return l.Limit - l.Remaining
		}
	}
	panic("acme/alice has no limit named tokens")
}

// vllm responds like a model server.
func vllm(w http.ResponseWriter, r *http.Request) {
	whole(http.StatusOK, completion("Because of Rayleigh scattering.", `{"prompt_tokens":20,"completion_tokens":6}`))(w, r)
}

// request sends a request with the credential of alice.
func request(h http.Handler, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer sk-alice")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// An ownModel counts its tokens.
type ownModel struct{}

var own ownModel

type token struct {
	Text          string
	Input, Output int64 // cumulative
}

func (ownModel) Generate(ctx context.Context, prompt string, most int64) iter.Seq[token] {
	return func(yield func(token) bool) {
		for i, word := range []string{"Because", " of", " scattering", "."} {
			if int64(i) == most || ctx.Err() != nil || !yield(token{word, int64(len(prompt)), int64(i) + 1}) {
				return
			}
		}
	}
}
