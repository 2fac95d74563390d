// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/pb"
)

// hotKeys implements HotKeys only.
type hotKeys struct {
	pb.UnimplementedRateLimiterServer
	asked int32
}

func (h *hotKeys) HotKeys(_ context.Context, r *pb.HotKeysRequest) (*pb.HotKeysResponse, error) {
	h.asked = r.GetLimit()
	return &pb.HotKeysResponse{
		Keys: []*pb.HotKey{
			{
				Key: "acme/alice", Owner: "n1", Rate: 1500.04, RateError: 2.26, Tier: "free", Model: "m", SliceRate: 1000.06, Slices: 3,
				Limit:   &pb.LimitState{Name: "requests", Dimension: "requests", Scope: "acme", Algorithm: "token_bucket", Limit: 10, Remaining: 3},
				Askers:  []*pb.Asker{{Name: &pb.Asker_Member{Member: "n2"}, Rate: 1000}, {Name: &pb.Asker_Client{Client: "10.0.0.7"}, Rate: 500.04}},
				Holders: []*pb.SliceHolder{{Name: &pb.SliceHolder_Member{Member: "n2"}, Slices: 2, Rate: 1000.06}, {Name: &pb.SliceHolder_Client{Client: "10.0.0.7"}, Slices: 1}},
			},
			{Key: "globex", Owner: "n2", Rate: 1},
		},
		Members: []*pb.MemberRate{{Member: "n1", Rate: 999.94, SliceRate: 1000.06, Sampling: 4}, {Member: "n2", Rate: 1000, Sampling: 1, Waiting: &pb.WaitingCalls{Interactive: 1, Standard: 4, Batch: 200}}},
		Waiting: []*pb.WaitingLimit{{
			Scope: "globex", Name: "tpm", Dimension: "tokens", Model: "m", Owner: "n2",
			Calls: &pb.WaitingCalls{Standard: 3, Batch: 200}, Longest: durationpb.New(2500 * time.Millisecond),
		}},
		Unreachable: []string{"n3"},
	}, nil
}

func TestHotKeys(t *testing.T) {
	h := &hotKeys{}
	n := newNode(t, func(o *Options) { o.Service = h })
	a := n.do(t, "GET", "/v1/hotkeys?limit=7", nil)
	const want = `{"keys":[{"key":"acme/alice","owner":"n1","rate":1500,"rate_error":2.3,"slice_rate":1000.1,"share":0.5,"tier":"free","model":"m",` +
		`"limit":{"name":"requests","dimension":"requests","scope":"acme","algorithm":"token_bucket","limit":10,"remaining":3},` +
		`"askers":[{"member":"n2","rate":1000},{"client":"10.0.0.7","rate":500}],"slices":3,` +
		`"holders":[{"member":"n2","slices":2,"rate":1000.1},{"client":"10.0.0.7","slices":1,"rate":0}]},` +
		`{"key":"globex","owner":"n2","rate":1,"rate_error":0,"slice_rate":0,"share":0,"askers":[],"slices":0,"holders":[]}],` +
		`"rate":3000,"slice_rate":1000.1,"members":[{"member":"n1","rate":999.9,"slice_rate":1000.1,"sampling":4},{"member":"n2","rate":1000,"slice_rate":0,"sampling":1}],"unreachable":["n3"],` +
		`"waiting":{"interactive":1,"standard":4,"batch":200,"limits":[{"scope":"globex","name":"tpm","dimension":"tokens","model":"m","owner":"n2","interactive":0,"standard":3,"batch":200,"longest_ms":2500}]}}` + "\n"
	if a.status != http.StatusOK || a.body != want || h.asked != 7 {
		t.Errorf("GET /v1/hotkeys = %d %s\nwant 200 %s; limit %d, want 7", a.status, a.body, want, h.asked)
	}
	if a := n.do(t, "GET", "/v1/hotkeys", nil); a.status != http.StatusOK || h.asked != 0 {
		t.Errorf("GET /v1/hotkeys = %d with limit %d, want 200 with the default", a.status, h.asked)
	}
	for _, test := range []struct{ query, field, says string }{
		{"limit=ten", "limit", "must be a whole number"},
		{"limit=99999999999", "limit", "must be a whole number"},
		{"limti=1", "limti", "did you mean limit?"},
	} {
		a := n.do(t, "GET", "/v1/hotkeys?"+test.query, nil)
		if p := a.problem(t); a.status != http.StatusBadRequest || p.Field != test.field || !strings.Contains(p.Message, test.says) {
			t.Errorf("GET /v1/hotkeys?%s = %d %+v, want 400, %q: %s", test.query, a.status, p, test.field, test.says)
		}
	}
}
