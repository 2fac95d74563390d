// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/bucketring/bucketring/bench"
)

var gubernatorKind = Kind{
	Name: "gubernator", Syntax: "gubernator:HOST:PORT",
	Measures:    "Gubernator through its gRPC API: one unary RPC per check on one connection to one daemon, which forwards to the owner of the key in batches of its own. The limit comes with each call.",
	Limitations: "It has one limit per key, no reservations and no request ids, so a retry is charged again. Messages are encoded by hand here, which is less work for the client than generated code.",
}

// gubernatorTarget calls a daemon of Gubernator, with one token bucket per key.
type gubernatorTarget struct {
	base
	checksOnly
	conn   *grpc.ClientConn
	limit  Limit
	global bool
}

func openGubernator(k *kind, rest string, o Options) (builtin, error) {
	at, err := parseAddress(k.Name, rest, "1051", o)
	if err != nil {
		return nil, err
	}
	limit := o.Limits[0]
	if len(o.Limits) > 1 || limit.Dimension != Requests {
		return nil, fmt.Errorf("limits: must be one limit on requests, got %d, the first on %s", len(o.Limits), limit.Dimension)
	}
	o.Token = nil // it is for nodes
	conn, err := dial(at, o)
	if err != nil {
		return nil, err
	}
	return &gubernatorTarget{base: newBase(k, k.Name+":"+at, o), conn: conn, limit: limit, global: o.Global}, nil
}

func (g *gubernatorTarget) describe() string {
	text := "Limit: " + g.limit.String() + "."
	if g.global {
		text += " Daemons answer from copies (GLOBAL)."
	}
	return text
}

func (g *gubernatorTarget) ready(ctx context.Context) error { return connected(ctx, g.timeout, g.conn) }

// Check implements [bench.Target].
func (g *gubernatorTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	ctx, cancel := g.withTimeout(ctx)
	defer cancel()
	var answer []byte
	if err := g.conn.Invoke(ctx, "/pb.gubernator.V1/GetRateLimits", g.request(c), &answer, grpc.ForceCodec(plainBytes{})); err != nil {
		return bench.Answer{}, grpcError("check", err)
	}
	over, err := parseGubernator(answer)
	switch {
	case err != nil:
		return bench.Answer{}, fmt.Errorf("check: %w", err)
	case over:
		return bench.Answer{Outcome: bench.Denied, Reason: limitExceeded}, nil
	}
	return bench.Answer{Outcome: bench.Allowed}, nil
}

// Close implements [bench.Target].
func (g *gubernatorTarget) Close() error { return g.conn.Close() }

// Gubernator's messages are encoded here, because its Go types would make all of it a
// dependency.

// globalBehavior is the GLOBAL of Gubernator.
const globalBehavior = 2

// request is a GetRateLimitsReq with one limit.
func (g *gubernatorTarget) request(c *bench.Call) []byte {
	var r []byte
	for i, text := range []string{"requests", c.Key} { // name, unique_key
		r = protowire.AppendString(protowire.AppendTag(r, protowire.Number(i+1), protowire.BytesType), text)
	}
	for i, n := range []int64{requestsOf(c), g.limit.Amount, g.limit.Window.Milliseconds()} { // hits, limit, duration
		r = protowire.AppendVarint(protowire.AppendTag(r, protowire.Number(i+3), protowire.VarintType), uint64(n))
	}
	if g.global {
		r = protowire.AppendVarint(protowire.AppendTag(r, 7, protowire.VarintType), globalBehavior)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), r)
}

// parseGubernator reads a GetRateLimitsResp with one answer: whether it is over the
// limit, or its error.
func parseGubernator(wire []byte) (over bool, err error) {
	number, _, n := protowire.ConsumeTag(wire)
	if n < 0 || number != 1 {
		return false, errors.New("the answer has no response")
	}
	response, n := protowire.ConsumeBytes(wire[n:])
	if n < 0 {
		return false, errors.New("the answer is cut short")
	}
	for len(response) > 0 {
		number, kind, n := protowire.ConsumeTag(response)
		if n < 0 {
			return false, protowire.ParseError(n)
		}
		response = response[n:]
		size := protowire.ConsumeFieldValue(number, kind, response)
		if size < 0 {
			return false, protowire.ParseError(size)
		}
		switch number {
		case 1: // status: OVER_LIMIT is 1
			status, _ := protowire.ConsumeVarint(response)
			over = status == 1
		case 5:
			text, _ := protowire.ConsumeBytes(response)
			if len(text) > 0 {
				return false, errors.New(string(text))
			}
		}
		response = response[size:]
	}
	return over, nil
}

// plainBytes sends and receives bytes as they are.
type plainBytes struct{}

func (plainBytes) Name() string                  { return "proto" }
func (plainBytes) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (plainBytes) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
