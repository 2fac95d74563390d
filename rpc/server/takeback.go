// SPDX-License-Identifier: Apache-2.0

package server

import (
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
)

// TakeBack ends the slice that was lent with the answer to call c, number i, which is not sent,
// so that nobody holds it. It returns the id of the slice, "" if there is none. If this member
// does not own the key any more, the slice is over at the end of its lease.
func (s *Service) TakeBack(results *Results, i int, c *call.Call) (id string) {
	one := &results.list[i]
	if one.slice == nil {
		return ""
	}
	id = one.slice.GetId()
	var d limiter.Decision
	_ = s.engine.Return(s.now(), c.Key, id, make([]int64, len(one.slice.GetAmounts())), nil, limiter.Used{}, &d) // an error: see above
	one.slice = nil
	s.freedAll(c.Key)
	return id
}
