// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/server"
)

// Count counts hits on counters, each at the owner of its key, all under way
// together, and says what came of each, in their order. A wrong one costs the
// others nothing: its [server.Counted] has the error. Hits on one counter in the
// same call are counted in their order.
//
// An owner that does not answer in time, of which an eighth of what ctx leaves
// is spared, is replaced by this member: it counts against its share of the
// limit, limit / members rounded down, says route fallback, and tells the owner
// of the hits when it can. Those of a window that is over by then count nowhere.
//
// An error means that nothing was counted: ctx had ended, or the hits are more
// than [server.MaxItems].
func (r *Router) Count(ctx context.Context, hits []server.Count) ([]server.Counted, error) {
	return nil, grpcstatus.Error(codes.Unimplemented, "counters are not there yet")
}
