// SPDX-License-Identifier: Apache-2.0

package trace

import "fmt"

// User is the user that made a call.
type User struct {
	Key  string // org3/user017
	Tier string // free, standard or enterprise
}

// Users assigns a user to every row of the trace, by a seeded hash of the row
// number. Of ten users six are free, three standard and one enterprise; in each
// tier a few users make most of the calls.
type Users struct {
	Seed  uint64
	Count int // number of users; at least 1
	Orgs  int // first segments of the keys; at least 1
}

// Of returns the user of a row. It is deterministic.
func (u Users) Of(row int) User {
	h := mix(u.Seed ^ mix(uint64(row)))
	n := uint64(u.Count)
	// The smaller of two draws, so the share of user i decreases linearly with i.
	i := min((h>>32)%n, (h&0xffffffff)%n)
	return User{Key: fmt.Sprintf("org%d/user%03d", i%uint64(u.Orgs), i), Tier: tierOf(i)}
}

func tierOf(i uint64) string {
	switch i % 10 {
	case 9:
		return "enterprise"
	case 2, 5, 8:
		return "standard"
	default:
		return "free"
	}
}

// mix is the finalizer of SplitMix64: every bit of x changes half of the result.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
