// SPDX-License-Identifier: Apache-2.0

package client

import (
	"errors"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// stringInterner keeps copies of the strings that many answers have in common, such
// as the names of limits. It has a fixed size: new strings replace old ones. It takes
// no lock; a race costs at most another copy.
type stringInterner struct {
	slots [maxInterned]atomic.Pointer[string]
}

const (
	maxInterned      = 512
	maxInternedBytes = 64
)

var errUTF8 = errors.New("answer: a string is not valid UTF-8")

// intern returns a string equal to s that does not share its memory.
func (i *stringInterner) intern(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if len(s) > maxInternedBytes {
		return cloneText(s)
	}
	// A string has two slots, so that two frequent ones rarely replace each other.
	h := xxhash.Sum64String(s)
	slots := [2]uint64{h % maxInterned, h >> 32 % maxInterned}
	for _, at := range slots {
		if known := i.slots[at].Load(); known != nil && *known == s {
			return *known, nil
		}
	}
	c, err := cloneText(s)
	if err != nil {
		return "", err
	}
	at := slots[0]
	if i.slots[at].Load() != nil && (i.slots[slots[1]].Load() == nil || h>>63 == 1) {
		at = slots[1]
	}
	i.slots[at].Store(&c)
	return c, nil
}

func cloneText(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", errUTF8
	}
	return strings.Clone(s), nil
}

// hints are strings that the answer to a call is likely to repeat. Those of the call
// are valid UTF-8.
type hints struct {
	strings *stringInterner
	key     string
	sent    string // the request id
}

// requestID returns a copy of s that may be the request id of the call.
func (h *hints) requestID(s string) (string, error) {
	if h.sent == s {
		return h.sent, nil
	}
	return cloneText(s)
}

// scope returns a copy of s that may be a level of the key of the call.
func (h *hints) scope(s string) (string, error) {
	if strings.HasPrefix(h.key, s) {
		return h.key[:len(s)], nil
	}
	return cloneText(s)
}
