// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

// locator implements Locate only.
type locator struct {
	pb.UnimplementedRateLimiterServer
}

func (locator) Locate(_ context.Context, r *pb.LocateRequest) (*pb.LocateResponse, error) {
	response := &pb.LocateResponse{}
	for i, key := range r.GetKeys() {
		if key == "" {
			field := fmt.Sprintf("keys[%d]", i)
			wrong, err := status.New(codes.InvalidArgument, field+": must not be empty").WithDetails(&errdetails.BadRequest{
				FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: "must not be empty"}},
			})
			if err != nil {
				return nil, err
			}
			return nil, wrong.Err()
		}
		l := &pb.Location{Key: key, Partition: int32(i), State: "none"}
		if key != "nobody's" {
			l.Owner, l.Address, l.Heir, l.State, l.Term = "n1", "127.0.0.1:6471", "n2", "active", 1<<33
		}
		response.Locations = append(response.Locations, l)
	}
	return response, nil
}

func TestOwner(t *testing.T) {
	n := newNode(t, func(o *Options) { o.Service = locator{} })
	a := n.do(t, "GET", "/v1/owner?key=acme/alice&key=nobody%27s", nil)
	const want = `{"keys":[{"key":"acme/alice","partition":0,"owner":"n1","address":"127.0.0.1:6471","heir":"n2","state":"active","term":8589934592},` +
		`{"key":"nobody's","partition":1,"owner":"","address":"","heir":"","state":"none","term":0}]}` + "\n"
	if a.status != http.StatusOK || a.body != want {
		t.Errorf("GET /v1/owner = %d %s\nwant 200 %s", a.status, a.body, want)
	}
	if a := n.do(t, "GET", "/v1/owner?key=k"+strings.Repeat("&key=k", maxOwnerKeys-1), nil); a.status != http.StatusOK {
		t.Errorf("GET /v1/owner with %d keys = %d %s, want 200", maxOwnerKeys, a.status, a.body)
	}
}

func TestOwnerIsStrict(t *testing.T) {
	n := newNode(t, func(o *Options) { o.Service = locator{} })
	for _, test := range []struct{ query, field, says string }{
		{"", "key", "must be given, once or more often"},
		{"kye=a", "kye", "did you mean key?"},
		{"key=a&tier=free", "tier", "unknown field"},
		{"key=a&key=%ff", "key", "must be valid UTF-8"},
		{"key=a;b", "query", "semicolon"},
		{"key=a&key=", "key", "key: must not be empty"},
		{"key=k" + strings.Repeat("&key=k", maxOwnerKeys), "key", "must be given at most 1024 times, got 1025"},
	} {
		a := n.do(t, "GET", "/v1/owner?"+test.query, nil)
		if p := a.problem(t); a.status != http.StatusBadRequest || p.Field != test.field || !strings.Contains(p.Message, test.says) {
			t.Errorf("GET /v1/owner?%.40s = %d %+v, want 400, %q: %s", test.query, a.status, p, test.field, test.says)
		}
	}
	if a := n.post(t, "/v1/owner", `{"key":"a"}`); a.status != http.StatusMethodNotAllowed {
		t.Errorf("POST /v1/owner = %d, want 405", a.status)
	}
}
