// SPDX-License-Identifier: Apache-2.0

package peer

import "strings"

// The id of a reservation that a member made in place of the owner names that
// member, so that whoever is asked to settle it knows whom to ask:
//
//	fallback:<member>:<the id that the owner will know it by>
//
// It may be longer than the 128 bytes that a caller's own id may have, and is
// taken back all the same.
const (
	idPrefix    = "fallback:"
	idSeparator = ":"
)

// reserved reports whether an id may be that of a reservation made in fallback.
func reserved(id string) bool { return strings.HasPrefix(id, idPrefix) }

// fallbackID names a reservation that member made in fallback.
func fallbackID(member, id string) string { return idPrefix + member + idSeparator + id }

// splitID takes the id of a reservation apart. The member is empty, and the id
// is the owner's, unless the reservation was made in fallback.
func splitID(id string) (member, original string) {
	rest, ok := strings.CutPrefix(id, idPrefix)
	if !ok {
		return "", id
	}
	member, original, ok = strings.Cut(rest, idSeparator)
	if !ok || member == "" || original == "" {
		return "", id
	}
	return member, original
}
