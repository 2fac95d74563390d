// SPDX-License-Identifier: Apache-2.0

// Package requestid makes and parses the ids of reservations that another member than the
// owner made: in fallback, or from a slice. Such an id names that member, so that any member
// can route the settle:
//
//	fallback:<member>:<the id at the owner>
//	held:<member>:<the id at the owner>
//
// It may be longer than the ids that callers can choose. The id of a slice names who
// holds it:
//
//	slice:<holder>:<number>
//
// The package also carries the attempt of a unary call, which identifies one of several
// with the same request id.
package requestid

import (
	"strconv"
	"strings"
)

const (
	// MaxBytes bounds the ids that callers choose.
	MaxBytes = 128
	// Prefix begins the id of a reservation made in fallback. No caller may choose
	// such an id for a new reservation.
	Prefix = "fallback:"
	// HeldPrefix begins the id of a reservation that a member made from a slice. No caller
	// may choose such an id for a new reservation.
	HeldPrefix = "held:"
	// Separator ends the name of the member. No name contains it.
	Separator = ":"
	// SlicePrefix begins the id of a slice. No caller may choose such an id.
	SlicePrefix = "slice:"
)

// maxHolderBytes bounds the name of a holder in the id of a slice.
const maxHolderBytes = 64

// IsSlice reports whether an id is of the form of slices.
func IsSlice(id string) bool { return strings.HasPrefix(id, SlicePrefix) }

// Slice returns the id of a slice. The holder is the name of a member or the address of a
// client; it is for people who read ids, and is cut if it is long. The number makes the id
// unique. It is at most 87 bytes long.
func Slice(holder string, number uint64) string {
	if len(holder) > maxHolderBytes {
		holder = strings.ToValidUTF8(holder[:maxHolderBytes], "")
	}
	return SlicePrefix + holder + Separator + strconv.FormatUint(number, 16)
}

// IsFallback reports whether an id has the prefix of a reservation made in fallback.
func IsFallback(id string) bool { return strings.HasPrefix(id, Prefix) }

// Fallback returns the id of a reservation that member made in fallback. id is its id
// at the owner.
func Fallback(member, id string) string { return Prefix + member + Separator + id }

// IsHeld reports whether an id has the prefix of a reservation that a member made from a slice.
func IsHeld(id string) bool { return strings.HasPrefix(id, HeldPrefix) }

// Held returns the id of a reservation that member made from a slice. id is its id at the
// owner.
func Held(member, id string) string { return HeldPrefix + member + Separator + id }

// Split returns the member that made a reservation in fallback or from a slice, and its id at
// the owner. For any other id, member is empty and original is the id itself.
func Split(id string) (member, original string) {
	rest, ok := strings.CutPrefix(id, Prefix)
	if !ok {
		if rest, ok = strings.CutPrefix(id, HeldPrefix); !ok {
			return "", id
		}
	}
	member, original, ok = strings.Cut(rest, Separator)
	if !ok || member == "" || original == "" {
		return "", id
	}
	return member, original
}
