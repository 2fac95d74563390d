// SPDX-License-Identifier: Apache-2.0

package client

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Every value of the wire's enumerations has the word that answers use for it.
func TestWords(t *testing.T) {
	wantWords(t, outcomeNames[:], pb.Outcome(0))
	wantWords(t, reasonNames[:], pb.Reason(0))
	wantWords(t, routeNames[:], pb.Route(0))
	wantWords(t, statusNames[:], pb.ReservationStatus(0))
}

func wantWords[W ~string](t *testing.T, words []W, enum protoreflect.Enum) {
	t.Helper()
	values := enum.Descriptor().Values()
	if len(words) != values.Len() {
		t.Errorf("%s has %d words, want %d", enum.Descriptor().Name(), len(words), values.Len())
	}
	prefix := strings.TrimSuffix(string(values.ByNumber(0).Name()), "UNSPECIFIED")
	for i := range values.Len() {
		name, number := string(values.Get(i).Name()), values.Get(i).Number()
		want := strings.ToLower(strings.TrimPrefix(name, prefix))
		if number == 0 {
			want = ""
		}
		if got := word(words, number); string(got) != want {
			t.Errorf("word(%s) = %q, want %q", name, got, want)
		}
	}
}
