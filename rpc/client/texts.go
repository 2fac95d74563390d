// SPDX-License-Identifier: Apache-2.0

package client

import (
	"strconv"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// maxDirect bounds a call that goes with a batch, in bytes, about. Nodes
	// take none that large: it is asked alone, and refused alone.
	maxDirect = 16 << 10

	maxShown = 64 // bytes of a wrong text in a message
)

// texts are the strings of a call.
type texts struct {
	key, tier, model, id string
	costs                map[string]int64
}

// check refuses what has no place in a message of protobuf, before it gets into
// a batch with the calls of others.
func (t *texts) check() error {
	switch {
	case !utf8.ValidString(t.key):
		return notText("key", t.key)
	case !utf8.ValidString(t.tier):
		return notText("tier", t.tier)
	case !utf8.ValidString(t.model):
		return notText("model", t.model)
	case !utf8.ValidString(t.id):
		return notText("request_id", t.id)
	}
	for name := range t.costs {
		if !utf8.ValidString(name) {
			return notText("costs", name)
		}
	}
	return nil
}

// large reports whether the call is too large for a batch.
func (t *texts) large() bool {
	n := len(t.key) + len(t.tier) + len(t.model) + len(t.id)
	for name := range t.costs {
		n += len(name) + 16
	}
	return n > maxDirect
}

func notText(field, value string) error {
	if len(value) > maxShown {
		value = value[:maxShown]
	}
	message := field + ": must be valid UTF-8, got " + strconv.Quote(value)
	return &InvalidError{Field: field, Message: message, status: status.Error(codes.InvalidArgument, message)}
}
