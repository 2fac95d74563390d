// SPDX-License-Identifier: Apache-2.0

package server

import (
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Count is hits on a counter, whose limit comes with the call and not from the
// policy: a proxy's own configuration has it. The hits are counted whatever the
// limit says, so a counter that is over goes further over.
//
// A counter is named by its key and its window. Its limit may differ from call to
// call, and what was used stays used. Counters and the keys of policies share no
// state, even if they have the same name.
type Count struct {
	// Key is 1 to 4 segments separated by "/", none of them empty, 1 to 256 bytes
	// of printable UTF-8. Counters with the same first segment have the same owner
	// and share one lock, so the first segment should tell most of them apart.
	Key string
	// Limit is what may be used in each window, from 0 to [limiter.MaxAmount].
	Limit  int64
	Window limiter.Window
	// Hits are what is used now, from 0 to [limiter.MaxAmount]; 0 is a look, which
	// makes no state.
	Hits int64
	// GiveBack: the hits were counted before and are taken off again, as far as
	// the window has any. It is for hits of the same window: what the window before
	// counted is gone already.
	GiveBack bool
}

// Counted is what came of a [Count].
type Counted struct {
	// Err says why nothing was counted: an InvalidArgument status for a wrong
	// Count or a counter that cannot count so much, Unavailable or
	// DeadlineExceeded if nobody could count it. The other fields mean nothing then.
	Err error

	// Over: Used is more than Limit, after the hits.
	Over bool
	// Full: there is no room for a new counter, so nothing was counted. Over is set
	// too.
	Full bool
	// Limit is the one that Used was compared with: that of the call, or, if the
	// route is fallback, this member's share of it.
	Limit     int64
	Used      int64 // in the window; more than Limit if over
	Remaining int64 // 0 if over
	// Reset is how long until the window ends; more than 0.
	Reset time.Duration

	Owner string // the member that counted
	Route pb.Route
}
