// SPDX-License-Identifier: Apache-2.0

// Package pause keeps work in the background from taking a processor from calls.
package pause

import "time"

// shortest is the least time to work between two pauses.
const shortest = 300 * time.Microsecond

// Half returns a function that waits for as long as the caller has worked since the last
// time, if that is worth a pause. A loop that calls it works half of the time. The function
// is not safe for concurrent use.
func Half() func() {
	began := time.Now()
	return func() {
		worked := time.Since(began)
		if worked < shortest {
			return
		}
		time.Sleep(worked)
		began = time.Now()
	}
}
