// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/pb"
)

// apiCall is the common part of check, reserve, settle, cancel, keys and top: it sends a
// request to a node and prints the answer.
//
// The request goes through the handler of the JSON API, which runs in this process
// and calls the gRPC service of the node. So -o json prints the same as the HTTP
// API, and errors have the same texts.
type apiCall struct {
	streams *streams
	server  string
	timeout time.Duration
	token   tokenFlag
	output  *format
	tls     *callerTLS
	body    body
	hint    string // what to try if the node does not answer; "": the usual
}

// defaultServer is the default gRPC address of a node.
const defaultServer = "127.0.0.1:6471"

// body is the body of a request to the JSON API, with the fields that were given.
type body map[string]any

func newAPICall(s *streams) *apiCall { return &apiCall{streams: s, body: body{}} }

// connectionFlags declares the flags for the node to ask and the output.
func (c *apiCall) connectionFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&c.server, "server", "", "gRPC address of the node (default $BUCKETRING_SERVER or "+defaultServer+")")
	flags.DurationVar(&c.timeout, "timeout", 5*time.Second, "time to wait for the answer")
	c.token.declare(flags)
	c.tls = newCallerTLS(c.streams, cmd)
	c.output = addFormat(flags)
}

// stringFlag, intFlag and costFlag declare a flag for a field of the body.
func (c *apiCall) stringFlag(cmd *cobra.Command, flag, help string) {
	cmd.Flags().Var(&fieldFlag{body: c.body, field: fieldName(flag), kind: "string"}, flag, help)
}

// choiceFlag is stringFlag for a field with a fixed set of values, which help lists at %s.
func (c *apiCall) choiceFlag(cmd *cobra.Command, flag, help string, choices ...string) {
	cmd.Flags().Var(&fieldFlag{body: c.body, field: fieldName(flag), kind: "string", choices: choices}, flag, fmt.Sprintf(help, listChoices(choices)))
	withChoices(cmd.Flags(), flag, choices...)
}

func (c *apiCall) intFlag(cmd *cobra.Command, flag, field, help string) {
	cmd.Flags().Var(&fieldFlag{body: c.body, field: field, kind: "int"}, flag, help)
}

func (c *apiCall) costFlag(cmd *cobra.Command) {
	cmd.Flags().Var(&fieldFlag{body: c.body, field: "costs", kind: "name=int"}, "cost", "cost in a custom dimension, such as images=2; may be repeated")
}

// post posts the body to a path of the API and prints the answer.
func (c *apiCall) post(cmd *cobra.Command, path string) error {
	text, err := json.Marshal(c.body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	_, idGiven := c.body["request_id"]
	return c.do(cmd, http.MethodPost, path, text, func(node *remoteService, a *responseRecorder) {
		node.idGiven = idGiven
		c.streams.printAnswer(node, a)
	})
}

// fieldMaxWait is the field that says how long a call may wait in line.
const fieldMaxWait = "max_wait_seconds"

// postMayWait is post for a call that may wait in line. --timeout begins when it need not wait
// any more; without --max-wait, it may wait for most of it.
func (c *apiCall) postMayWait(cmd *cobra.Command, path string) error {
	if seconds, given := c.body[fieldMaxWait].(float64); given {
		c.timeout += time.Duration(seconds * float64(time.Second))
	} else {
		c.body[fieldMaxWait] = min(max(c.timeout-c.timeout/5, 0), longestWait).Seconds()
	}
	return c.post(cmd, path)
}

// do sends a request to the API and prints the answer, as JSON or with printTable.
func (c *apiCall) do(cmd *cobra.Command, method, target string, text []byte, printTable func(*remoteService, *responseRecorder)) error {
	server := c.streams.flagOrEnv(c.server, envServer, defaultServer)
	token, err := c.token.source(cmd, c.streams)
	if err != nil {
		return err
	}
	secure, err := c.tls.dialOption(cmd)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(server, append(tokenDialOptions(token), secure)...)
	if err != nil {
		return usageError(cmd, fmt.Errorf("--server %s: %w", server, err), "")
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	defer cancel()

	node := &remoteService{client: pb.NewRateLimiterClient(conn), server: server, admin: &remoteAdmin{client: pb.NewAdminClient(conn)}}
	answer, err := node.send(ctx, method, target, text)
	if err != nil {
		return err
	}
	switch answer.status {
	case http.StatusOK, http.StatusAccepted, http.StatusTooManyRequests:
	default:
		return c.rejected(cmd, server, answer, cmp.Or(node.err, node.admin.err))
	}
	if *c.output == formatJSON {
		if err := c.streams.indentJSON(answer.body.Bytes()); err != nil {
			return err
		}
	} else {
		printTable(node, answer)
	}
	if answer.status == http.StatusTooManyRequests {
		return &commandError{code: exitDenied}
	}
	return nil
}

// rejected returns the error of an answer without a decision, with the code of the API.
func (c *apiCall) rejected(cmd *cobra.Command, server string, a *responseRecorder, err error) error {
	rejected := c.rejection(cmd, server, a, err)
	if e, ok := errors.AsType[*commandError](rejected); ok {
		said := a.said()
		e.name, e.field = said.Error, said.Field
	}
	return rejected
}

func (c *apiCall) rejection(cmd *cobra.Command, server string, a *responseRecorder, err error) error {
	switch a.status {
	case http.StatusBadRequest:
		return usageError(cmd, errors.New(a.message()), "")
	case http.StatusUnauthorized, http.StatusForbidden:
		return errorWithHint(errors.New(server+": "+a.message()), tokenHint)
	case http.StatusNotFound, http.StatusConflict:
		return errorWithHint(errors.New(a.message()), "")
	case http.StatusServiceUnavailable:
		if text := status.Convert(err).Message(); c.hint != "" && !strings.HasPrefix(text, "connection error") {
			return errorWithHint(errors.New(text), c.hint)
		}
		return errorWithHint(fmt.Errorf("%s did not answer: %s", server, status.Convert(err).Message()),
			tlsHintOf(err, c.tls.used, noAnswerHint(status.Code(err) == codes.DeadlineExceeded)))
	}
	text := status.Convert(err).Message()
	if strings.HasPrefix(text, "unexpected HTTP status code") { // grpc-go adds the page that came
		return errorWithHint(errors.New(server+" answers HTTP, but no gRPC"), "give the gRPC address of a node, whose port is 6471 by default")
	}
	return errorWithHint(fmt.Errorf("%s: %s", server, text), "check that this is the gRPC address of a node of the same version")
}

// remoteService forwards calls to a node, and keeps its last answer.
type remoteService struct {
	pb.UnimplementedRateLimiterServer
	client     pb.RateLimiterClient
	server     string // address of the node
	admin      *remoteAdmin
	idGiven    bool // the request id is that of the user
	decision   *pb.Decision
	settlement *pb.Settlement
	peeked     *pb.PeekResponse
	locations  []*pb.Location
	hotKeys    *pb.HotKeysResponse
	err        error
}

func (f *remoteService) Check(ctx context.Context, r *pb.CheckRequest) (*pb.Decision, error) {
	f.decision, f.err = f.client.Check(ctx, r)
	return f.decision, f.err
}

func (f *remoteService) Reserve(ctx context.Context, r *pb.ReserveRequest) (*pb.Decision, error) {
	f.decision, f.err = f.client.Reserve(ctx, r)
	return f.decision, f.err
}

func (f *remoteService) Settle(ctx context.Context, r *pb.SettleRequest) (*pb.Settlement, error) {
	f.settlement, f.err = f.client.Settle(ctx, r)
	return f.settlement, f.err
}

func (f *remoteService) Cancel(ctx context.Context, r *pb.CancelRequest) (*pb.Settlement, error) {
	f.settlement, f.err = f.client.Cancel(ctx, r)
	return f.settlement, f.err
}

func (f *remoteService) Peek(ctx context.Context, r *pb.PeekRequest) (*pb.PeekResponse, error) {
	f.peeked, f.err = f.client.Peek(ctx, r)
	return f.peeked, f.err
}

func (f *remoteService) Locate(ctx context.Context, r *pb.LocateRequest) (*pb.LocateResponse, error) {
	var found *pb.LocateResponse
	found, f.err = f.client.Locate(ctx, r)
	f.locations = found.GetLocations()
	return found, f.err
}

func (f *remoteService) HotKeys(ctx context.Context, r *pb.HotKeysRequest) (*pb.HotKeysResponse, error) {
	f.hotKeys, f.err = f.client.HotKeys(ctx, r)
	return f.hotKeys, f.err
}

func (f *remoteService) send(ctx context.Context, method, target string, text []byte) (*responseRecorder, error) {
	r, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	answer := &responseRecorder{header: http.Header{}}
	httpapi.New(httpapi.Options{Service: f, Admin: f.admin, Logger: slog.New(slog.DiscardHandler)}).ServeHTTP(answer, r)
	return answer, nil
}

// responseRecorder is an http.ResponseWriter that keeps the response.
type responseRecorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *responseRecorder) Header() http.Header         { return r.header }
func (r *responseRecorder) WriteHeader(status int)      { r.status = status }
func (r *responseRecorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// said is what a denial or an error says.
type said struct{ Error, Field, Message string }

func (r *responseRecorder) said() (s said) {
	if err := json.Unmarshal(r.body.Bytes(), &s); err != nil {
		s.Message = "the answer cannot be parsed: " + err.Error()
	}
	return s
}

// message returns the message of a denial or an error.
func (r *responseRecorder) message() string { return r.said().Message }
