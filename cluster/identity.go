// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ID is a 64-bit number that is written as 16 hexadecimal digits: the random part
// of a [Boot], or a digest.
type ID uint64

// ParseID parses the output of [ID.String].
func ParseID(s string) (ID, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 {
		return 0, fmt.Errorf("parse id %q: want 16 hexadecimal digits", s)
	}
	return ID(n), nil
}

func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// MarshalText implements [encoding.TextMarshaler].
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}

// Boot is one run of a process. ID is random and identifies the boot. Started is
// the wall clock of the machine at the start and orders the boots of one name.
type Boot struct {
	ID      ID
	Started time.Time
}

// Compare orders boots by Started, and by ID if both started at the same time.
func (b Boot) Compare(other Boot) int {
	return cmp.Or(b.Started.Compare(other.Started), cmp.Compare(b.ID, other.ID))
}

// State is the state that a member announces. It never decreases during a boot.
type State uint8

// The states of a member. Zero is not a state.
const (
	Joining State = iota + 1 // takes part in gossip, but is not in the ring yet
	Serving                  // is in the ring
	Leaving                  // is about to leave, and not in the ring any more
)

var stateNames = [...]string{Joining: "joining", Serving: "serving", Leaving: "leaving"}

func (s State) valid() bool { return s >= Joining && s <= Leaving }

func (s State) String() string {
	if !s.valid() {
		return fmt.Sprintf("state %d", uint8(s))
	}
	return stateNames[s]
}

// MaxName is the length of the longest name of a member, in bytes.
const MaxName = 57

// validateName accepts letters, digits, dots, underscores and hyphens.
func validateName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("must have 1 to %d bytes, got %d", MaxName, len(name))
	}
	for _, r := range []byte(name) {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '_', r == '-':
		default:
			return errors.New("must have letters, digits, dots, underscores and hyphens only, got " + strconv.Quote(name))
		}
	}
	return nil
}

// gossipName returns the memberlist name of a boot. A member's name has no tilde.
func gossipName(name string, boot ID) string { return name + "~" + boot.String() }
