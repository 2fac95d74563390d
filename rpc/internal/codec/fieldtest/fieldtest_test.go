// SPDX-License-Identifier: Apache-2.0

package fieldtest

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/bucketring/bucketring/rpc/pb"
)

// recorder is a test that keeps its errors.
type recorder struct {
	testing.TB
	errors []string
}

func (*recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func (r *recorder) want(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(r.errors, want) {
		t.Errorf("errors = %q, want %q", r.errors, want)
	}
	r.errors = nil
}

// The checks name the fields that are forgotten, and the exceptions that are none.
func TestForgottenFieldsAreNamed(t *testing.T) {
	r := &recorder{TB: t}
	ownerOnly := func(wire []byte) string {
		var m pb.PeekResponse
		if err := proto.Unmarshal(wire, &m); err != nil {
			t.Fatal(err)
		}
		return m.GetOwner() + m.GetTier() + m.GetRoute().String() + fmt.Sprint(len(m.GetLimits()))
	}
	Carried(r, "code", &pb.PeekResponse{}, nil, ownerOnly)
	r.want(t, "code does not carry bucketring.v1.PeekResponse.policy_version")
	Carried(r, "code", &pb.PeekResponse{}, []protoreflect.Name{"policy_version"}, ownerOnly)
	r.want(t)
	Carried(r, "code", &pb.PeekResponse{}, []protoreflect.Name{"policy_version", "owner"}, ownerOnly)
	r.want(t, "code does not carry bucketring.v1.PeekResponse.owner: it does now, want it removed from the exceptions")

	wire := marshal(t, &pb.Redirect{Owner: "a"})
	Set(r, "code", &pb.Redirect{}, nil, wire)
	r.want(t, "code does not set bucketring.v1.Redirect.address")
	Set(r, "code", &pb.Redirect{}, []protoreflect.Name{"address"}, wire)
	r.want(t)
}

// The field that is added to a message must be missed: a check that misses nothing is
// itself reported.
func TestAddedFieldIsMissed(t *testing.T) {
	r := &recorder{TB: t}
	Carried(r, "code", &pb.Redirect{}, nil, func(wire []byte) string { return string(wire) })
	r.want(t, "code does not carry bucketring.v1.Redirect.added_field: it does now, want it removed from the exceptions")
}
