// SPDX-License-Identifier: Apache-2.0

// Package requestid knows the ids of reservations that a member made in fallback.
// Such an id names the member, so that whoever is asked to settle the reservation
// knows who made it:
//
//	fallback:<member>:<the id by which the owner will know it>
//
// It may be longer than an id that a caller may choose, and is accepted all the
// same.
package requestid

import "strings"

const (
	// Prefix is how the id of a reservation that was made in fallback begins. No
	// caller may choose such an id for a new reservation.
	Prefix = "fallback:"
	// Separator ends the name of the member. No name contains it.
	Separator = ":"
)

// IsFallback reports whether an id begins like that of a reservation made in
// fallback.
func IsFallback(id string) bool { return strings.HasPrefix(id, Prefix) }

// Fallback returns the id of a reservation that member made in fallback and that
// the owner will know as id.
func Fallback(member, id string) string { return Prefix + member + Separator + id }

// Split returns the member that made a reservation in fallback, and the id by
// which the owner knows it. The member of any other id is empty, and original is
// the id itself.
func Split(id string) (member, original string) {
	rest, ok := strings.CutPrefix(id, Prefix)
	if !ok {
		return "", id
	}
	member, original, ok = strings.Cut(rest, Separator)
	if !ok || member == "" || original == "" {
		return "", id
	}
	return member, original
}
