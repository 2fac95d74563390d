// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ID is a 64-bit number that people see as 16 hexadecimal digits: the random
// part of a [Boot], or a digest.
type ID uint64

// ParseID reads what [ID.String] writes.
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

// Boot is one run of a process. ID is random and tells boots apart; Started, by
// the wall clock of the machine, orders the boots of one slot.
type Boot struct {
	ID      ID        `json:"id"`
	Started time.Time `json:"started"`
}

// Compare orders boots: a later start is greater, and so is the greater ID if
// both started at the same time.
func (b Boot) Compare(other Boot) int {
	return cmp.Or(b.Started.Compare(other.Started), cmp.Compare(b.ID, other.ID))
}

// State is what a member says about itself. It only ever grows.
type State uint8

// The states of a member. Zero is none of them.
const (
	Joining State = iota + 1 // takes part in gossip; the ring does not name it
	Serving                  // the ring names it
	Leaving                  // about to go; the ring does not name it any more
)

var stateNames = [...]string{Joining: "joining", Serving: "serving", Leaving: "leaving"}

func (s State) valid() bool { return s >= Joining && s <= Leaving }

func (s State) String() string {
	if !s.valid() {
		return fmt.Sprintf("state %d", uint8(s))
	}
	return stateNames[s]
}

// MarshalText implements [encoding.TextMarshaler].
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MaxSlot is the length of the longest slot, in bytes.
const MaxSlot = 57

// checkSlot accepts what can be told apart in a name, a host name and a log
// line: letters, digits, dot, underscore and hyphen.
func checkSlot(slot string) error {
	if slot == "" || len(slot) > MaxSlot {
		return fmt.Errorf("must have 1 to %d bytes, got %d", MaxSlot, len(slot))
	}
	for _, r := range []byte(slot) {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '_', r == '-':
		default:
			return errors.New("must have letters, digits, dots, underscores and hyphens only, got " + strconv.Quote(slot))
		}
	}
	return nil
}

// nodeName is how gossip knows a boot of a slot. No slot has a tilde.
func nodeName(slot string, boot ID) string { return slot + "~" + boot.String() }
