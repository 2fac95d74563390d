// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestJSONHasEveryFieldOfTheProto compares the JSON API and its document with the
// gRPC messages.
func TestJSONHasEveryFieldOfTheProto(t *testing.T) {
	api := httpapi.New(httpapi.Options{Service: pb.UnimplementedRateLimiterServer{}})
	document := read(t, "docs/http-api.md")
	for path, message := range map[string]proto.Message{
		"/v1/check":   &pb.CheckRequest{},
		"/v1/reserve": &pb.ReserveRequest{},
		"/v1/settle":  &pb.SettleRequest{},
		"/v1/cancel":  &pb.CancelRequest{},
	} {
		fields := message.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			name := string(fields.Get(i).Name())
			if name == "reservation" { // over gRPC only, for clients that keep their reserves
				continue
			}
			if name == "max_wait" { // a number, as all times in the JSON are
				name = "max_wait_seconds"
			}
			body := fmt.Sprintf(`{%q:[]}`, name) // a known field that is no list
			answer := httptest.NewRecorder()
			api.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body)))
			if !strings.Contains(answer.Body.String(), name+": must be ") {
				t.Errorf("POST %s %s = %s, want the field to be known", path, body, answer.Body)
			}
			if !strings.Contains(document, "`"+name+"`") {
				t.Errorf("docs/http-api.md does not describe %s", name)
			}
		}
	}
}
