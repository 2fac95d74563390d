// SPDX-License-Identifier: Apache-2.0

// Package requestid formats the ids of reservations that were made in fallback.
// Such an id names the member that made the reservation, so that any node can find
// it to settle:
//
//	fallback:<member>:<the id that the owner will know it by>
//
// It may be longer than the 128 bytes that a caller's own id may have.
package requestid

import "strings"

const (
	prefix    = "fallback:"
	separator = ":"
)

// IsFallback reports whether id has the prefix of an id made in fallback. A caller
// must not choose such an id.
func IsFallback(id string) bool { return strings.HasPrefix(id, prefix) }

// Fallback returns the id of a reservation that member made in fallback.
func Fallback(member, id string) string { return prefix + member + separator + id }

// Split returns the member that made a reservation in fallback, and the id that the
// owner will know it by. For any other id, also a malformed one, member is empty and
// original is id.
func Split(id string) (member, original string) {
	rest, ok := strings.CutPrefix(id, prefix)
	if !ok {
		return "", id
	}
	member, original, ok = strings.Cut(rest, separator)
	if !ok || member == "" || original == "" {
		return "", id
	}
	return member, original
}
