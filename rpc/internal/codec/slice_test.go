// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/rpc/pb"
)

func TestLent(t *testing.T) {
	r := full(t, "decision")
	_, plain, _ := parseAnswers(AppendResult(nil, r))
	if s, d := Lent(Encoded{Result: plain[0]}); s != nil || d != nil {
		t.Errorf("Lent() without a slice = %v, %v, want nothing", s, d)
	}
	r.Slice = &pb.Slice{Id: "s", Amounts: []int64{0, 5}, LeaseNanos: 7}
	_, results, _ := parseAnswers(AppendResult(nil, r))
	s, d := Lent(Encoded{Result: results[0]})
	if diff := cmp.Diff(r.GetSlice(), s, protocmp.Transform()); diff != "" {
		t.Errorf("Lent() slice (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(r.GetDecision(), d, protocmp.Transform()); diff != "" {
		t.Errorf("Lent() decision (-want +got):\n%s", diff)
	}
	if a, _, _, err := Decisions.Decode(Encoded{Result: results[0]}); err != nil || a == nil {
		t.Errorf("Decode() beside a slice = %v, %v, want the decision", a, err)
	} else {
		Decisions.Release(a)
	}
	if s, d := Lent(Encoded{Result: results[0][:len(results[0])-1]}); s != nil || d != nil {
		t.Errorf("Lent() of half a result = %v, %v, want nothing", s, d)
	}
	if got := testing.AllocsPerRun(100, func() { Lent(Encoded{Result: plain[0]}) }); got != 0 {
		t.Errorf("Lent() without a slice makes %.1f allocations, want none", got)
	}
}
