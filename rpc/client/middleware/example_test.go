// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// identifyUser returns who pays for a request.
func identifyUser(r *http.Request) (middleware.Identity, error) {
	user, known := users[r.Header.Get("Authorization")]
	if !known {
		return middleware.Identity{}, errors.New("no such API key") // results in 401, in the format of the endpoint
	}
	return middleware.Identity{Key: "acme/" + user}, nil
}

// limited returns the handler of a model server with the limits of the cluster.
func limited(c *client.Client, server http.Handler) (http.Handler, error) {
	m, err := middleware.New(middleware.Options{Client: c, Identify: identifyUser})
	if err != nil {
		return nil, err
	}
	return m.Handler(server), nil
}

// The middleware reads the largest cost of a call from its request and the usage
// from its response.
func Example() {
	c, stop := exampleClient()
	defer stop()
	handler, err := limited(c, http.HandlerFunc(vllm))
	if err != nil {
		log.Fatal(err)
	}

	a := request(handler, "/v1/chat/completions", `{"model":"m","max_tokens":800,"messages":[{"role":"user","content":"Why is the sky blue?"}]}`)
	fmt.Println(a.Code, a.Header().Get("X-Ratelimit-Limit-Tokens"), usedTokens(c))

	a = request(handler, "/v1/chat/completions", `{"model":"m","max_tokens":80000,"messages":[{"role":"user","content":"Why is the sky blue?"}]}`)
	fmt.Println(a.Code, strings.Contains(a.Body.String(), "rate_limit_exceeded"), usedTokens(c))
	// Output:
	// 200 10000 26
	// 429 true 26
}

// generate is a handler whose model counts tokens.
func generate(w http.ResponseWriter, r *http.Request) {
	prompt, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	call, _ := middleware.FromContext(r.Context())
	for token := range own.Generate(r.Context(), string(prompt), call.Granted()) {
		fmt.Fprint(w, token.Text)
		call.SetUsage(client.Usage{InputTokens: new(token.Input), OutputTokens: new(token.Output)}) // cumulative
	}
}

// With Options.Estimate, the server estimates the cost of its calls, and the
// handlers report their usage.
func ExampleCall_SetUsage() {
	c, stop := exampleClient()
	defer stop()
	m, err := middleware.New(middleware.Options{
		Client:   c,
		Identify: identifyUser,
		Estimate: func(r *http.Request) (client.Estimate, bool, error) {
			maxOutput, err := strconv.ParseInt(r.FormValue("max"), 10, 64)
			return client.Estimate{InputTokens: max(r.ContentLength, 0), MaxOutputTokens: new(maxOutput)}, r.URL.Path == "/generate", err
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	a := request(m.Handler(http.HandlerFunc(generate)), "/generate?max=100", "Why is the sky blue?")
	fmt.Println(a.Code, a.Body, usedTokens(c))
	// Output: 200 Because of scattering. 24
}

// OnDone gets the result of each call, for example for a ledger.
func ExampleOptions_onDone() {
	c, stop := exampleClient()
	defer stop()
	m, err := middleware.New(middleware.Options{
		Client:       c,
		Identify:     identifyUser,
		OnDisconnect: middleware.Drain, // finish and charge every call
		OnDone: func(r middleware.Result) {
			fmt.Println(r.Key, r.Model, r.Outcome, r.Charged.InputTokens, r.Charged.OutputTokens, r.Source)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	request(m.Handler(http.HandlerFunc(vllm)), "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"Why?"}]}`)
	// Output: acme/alice m allowed 20 6 reported
}

// interceptors returns server options that enforce the limits of the cluster.
func interceptors(c *client.Client) ([]grpc.ServerOption, error) {
	g, err := middleware.NewGRPC(middleware.GRPCOptions{
		Client: c,
		Identify: func(ctx context.Context, _ string, _ any) (middleware.Identity, error) {
			return middleware.Identity{Key: "acme/" + userOf(ctx)}, nil
		},
		Estimate: func(_ context.Context, _ string, req any) (client.Estimate, bool, error) {
			q, metered := req.(*wrapperspb.StringValue)
			return client.Estimate{InputTokens: int64(len(q.GetValue())), MaxOutputTokens: new(int64(100))}, metered, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(g.UnaryServerInterceptor()), grpc.ChainStreamInterceptor(g.StreamServerInterceptor())}, nil
}

// A gRPC service whose handlers report their usage with Call.SetUsage.
func ExampleGRPC() {
	c, stop := exampleClient()
	defer stop()
	options, err := interceptors(c)
	if err != nil {
		log.Fatal(err)
	}
	conn, stopService := exampleService(options...)
	defer stopService()

	reply := new(wrapperspb.StringValue)
	err = conn.Invoke(context.Background(), "/test.Model/Complete", wrapperspb.String("Why is the sky blue?"), reply)
	fmt.Println(reply.GetValue(), err, usedTokens(c))

	err = conn.Invoke(context.Background(), "/test.Model/Complete", wrapperspb.String(strings.Repeat("Why? ", 3000)), reply)
	fmt.Println(status.Code(err), usedTokens(c))
	// Output:
	// Because of scattering. <nil> 24
	// ResourceExhausted 24
}
