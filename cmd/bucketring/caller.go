// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/pb"
)

// caller is what check, reserve, settle, cancel and keys have in common: which
// node to ask and how to print its answer.
//
// The question goes through the JSON API's own handler, run in this process
// with the node's gRPC service behind it. So -o json prints what HTTP answers,
// and a mistake is refused in the same words, by construction.
type caller struct {
	streams *streams
	server  string
	timeout time.Duration
	output  *format
	body    body
}

// defaultServer is where a node listens for gRPC unless told otherwise.
const defaultServer = "127.0.0.1:6471"

// body is the request in the shape of the JSON API: only what was given.
type body map[string]any

func newCaller(s *streams) *caller { return &caller{streams: s, body: body{}} }

// flags declares those that say whom to ask and how to answer.
func (c *caller) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&c.server, "server", "", "gRPC address of the node to ask (default $BUCKETRING_SERVER or "+defaultServer+")")
	flags.DurationVar(&c.timeout, "timeout", 5*time.Second, "time to wait for the answer")
	c.output = addFormat(flags)
}

// text, count and costs declare a flag for a field of the body.
func (c *caller) text(cmd *cobra.Command, flag, help string) {
	cmd.Flags().Var(&fieldFlag{body: c.body, field: underscored(flag), kind: "string"}, flag, help)
}

func (c *caller) count(cmd *cobra.Command, flag, field, help string) {
	cmd.Flags().Var(&fieldFlag{body: c.body, field: field, kind: "int"}, flag, help)
}

func (c *caller) costs(cmd *cobra.Command) {
	cmd.Flags().Var(&fieldFlag{body: c.body, field: "costs", kind: "name=int"}, "cost", "cost in a dimension of your own, as images=2; may be repeated")
}

// ask posts the body to a path of the API, and prints the answer.
func (c *caller) ask(cmd *cobra.Command, path string) error {
	text, err := json.Marshal(c.body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.send(cmd, http.MethodPost, path, text, c.streams.answer)
}

// send sends a request to the API, and prints the answer: as it is, or as table
// does.
func (c *caller) send(cmd *cobra.Command, method, target string, text []byte, table func(*forward, *recorder)) error {
	server := c.streams.setting(c.server, "BUCKETRING_SERVER", defaultServer)
	conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return misused(cmd, fmt.Errorf("--server %s: %w", server, err), "")
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	defer cancel()

	node := &forward{client: pb.NewRateLimiterClient(conn)}
	answer, err := node.send(ctx, method, target, text)
	if err != nil {
		return err
	}
	if answer.status != http.StatusOK && answer.status != http.StatusTooManyRequests {
		return c.refused(cmd, server, answer, node.err)
	}
	if *c.output == formatJSON {
		if err := c.streams.indented(answer.body.Bytes()); err != nil {
			return err
		}
	} else {
		table(node, answer)
	}
	if answer.status == http.StatusTooManyRequests {
		return &failure{code: exitDenied}
	}
	return nil
}

// refused explains an answer that is no decision.
func (c *caller) refused(cmd *cobra.Command, server string, a *recorder, err error) error {
	switch a.status {
	case http.StatusBadRequest:
		return misused(cmd, errors.New(a.message()), "")
	case http.StatusNotFound, http.StatusConflict:
		return failed(errors.New(a.message()), "")
	case http.StatusServiceUnavailable:
		return failed(fmt.Errorf("%s did not answer: %s", server, status.Convert(err).Message()),
			"is a node running there? start one with: bucketring dev")
	}
	return failed(fmt.Errorf("%s: %w", server, err), "is that the gRPC address of a node, and of this version?")
}

// forward is the service as a node elsewhere answers it. It keeps the answer.
type forward struct {
	pb.UnimplementedRateLimiterServer
	client     pb.RateLimiterClient
	decision   *pb.Decision
	settlement *pb.Settlement
	locations  []*pb.Location
	err        error
}

func (f *forward) Check(ctx context.Context, r *pb.CheckRequest) (*pb.Decision, error) {
	f.decision, f.err = f.client.Check(ctx, r)
	return f.decision, f.err
}

func (f *forward) Reserve(ctx context.Context, r *pb.ReserveRequest) (*pb.Decision, error) {
	f.decision, f.err = f.client.Reserve(ctx, r)
	return f.decision, f.err
}

func (f *forward) Settle(ctx context.Context, r *pb.SettleRequest) (*pb.Settlement, error) {
	f.settlement, f.err = f.client.Settle(ctx, r)
	return f.settlement, f.err
}

func (f *forward) Cancel(ctx context.Context, r *pb.CancelRequest) (*pb.Settlement, error) {
	f.settlement, f.err = f.client.Cancel(ctx, r)
	return f.settlement, f.err
}

func (f *forward) Locate(ctx context.Context, r *pb.LocateRequest) (*pb.LocateResponse, error) {
	var found *pb.LocateResponse
	found, f.err = f.client.Locate(ctx, r)
	f.locations = found.GetLocations()
	return found, f.err
}

func (f *forward) send(ctx context.Context, method, target string, text []byte) (*recorder, error) {
	r, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	answer := &recorder{header: http.Header{}}
	httpapi.New(httpapi.Options{Service: f, Logger: slog.New(slog.DiscardHandler)}).ServeHTTP(answer, r)
	return answer, nil
}

// recorder is an HTTP answer that goes nowhere.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// message is the sentence in an answer that is not a plain yes.
func (r *recorder) message() string {
	var answer struct{ Message string }
	if err := json.Unmarshal(r.body.Bytes(), &answer); err != nil {
		return "the answer cannot be read: " + err.Error()
	}
	return answer.Message
}
