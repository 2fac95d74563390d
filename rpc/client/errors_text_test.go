// SPDX-License-Identifier: Apache-2.0

package client

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// TestErrorsSayTheirKindOnce: an error that a node answers has its kind once in its text,
// whether written as the API or as this package writes it.
func TestErrorsSayTheirKindOnce(t *testing.T) {
	for _, test := range []struct {
		answered, kind error
		want           string
	}{
		{&limiter.ConflictError{Problem: "the reservation was cancelled"}, ErrConflict, "request id conflict: the reservation was cancelled"},
		{limiter.ErrUnknownReservation, ErrUnknownReservation, "unknown reservation"},
		{server.Overloaded("this node is overloaded; send it again after 1s", time.Second), ErrOverloaded, "this node is overloaded; send it again after 1s"},
	} {
		err := callError(server.ErrorOf(&pb.Result{Result: &pb.Result_Error{Error: server.Describe(test.answered)}}))
		if !errors.Is(err, test.kind) || err.Error() != test.want {
			t.Errorf("%v: got %q, want %q", test.answered, err, test.want)
		}
		text := strings.ReplaceAll(err.Error(), "_", " ")
		if n := strings.Count(text, test.kind.Error()); n > 1 {
			t.Errorf("%q has its kind %d times", err, n)
		}
	}
}
