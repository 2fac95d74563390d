// SPDX-License-Identifier: Apache-2.0

package client

import (
	"errors"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// words are texts that come with one answer after the other, such as the names of
// limits: they are made once. Others take their places when they come no more.
// There is no lock; what is read is at worst made anew.
type words struct {
	slots [maxWords]atomic.Pointer[string]
}

const (
	maxWords     = 512
	maxWordBytes = 64
)

var errUTF8 = errors.New("answer: a text is not valid UTF-8")

// text returns b as a string.
func (w *words) text(b []byte) (string, error) {
	if len(b) == 0 {
		return "", nil
	}
	if len(b) > maxWordBytes {
		return anyText(b)
	}
	// A word is at one of two places: two that come in turns rarely share both.
	h := xxhash.Sum64(b)
	places := [2]uint64{h % maxWords, h >> 32 % maxWords}
	for _, at := range places {
		if known := w.slots[at].Load(); known != nil && *known == string(b) {
			return *known, nil
		}
	}
	s, err := anyText(b)
	if err != nil {
		return "", err
	}
	at := places[0]
	if w.slots[at].Load() != nil && (w.slots[places[1]].Load() == nil || h>>63 == 1) {
		at = places[1]
	}
	w.slots[at].Store(&s)
	return s, nil
}

func anyText(b []byte) (string, error) {
	if !utf8.Valid(b) {
		return "", errUTF8
	}
	return string(b), nil
}

// hints are texts that an answer is likely to repeat. Those of the call are valid.
type hints struct {
	words *words
	key   string
	sent  string // the request id
}

// id returns the text of a request id.
func (h *hints) id(b []byte) (string, error) {
	if h.sent == string(b) {
		return h.sent, nil
	}
	return anyText(b)
}

// scope returns the text of a level of a key: mostly of that of the call.
func (h *hints) scope(b []byte) (string, error) {
	if strings.HasPrefix(h.key, string(b)) {
		return h.key[:len(b)], nil
	}
	return anyText(b)
}
