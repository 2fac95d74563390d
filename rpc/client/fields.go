// SPDX-License-Identifier: Apache-2.0

package client

import (
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	quote "github.com/bucketring/bucketring/internal/text"
)

// maxBatchedBytes is roughly the most bytes of fields that a call in a batch may
// have. No valid call is larger: it is sent alone, and rejected alone.
const maxBatchedBytes = 16 << 10

// callFields are the variable-length fields of a call.
type callFields struct {
	key, tier, model, requestID string
	costs                       map[string]int64
}

// validate rejects what protobuf cannot encode, before it fails a batch with the
// calls of others.
func (f *callFields) validate() error {
	switch {
	case !utf8.ValidString(f.key):
		return notUTF8("key", f.key)
	case !utf8.ValidString(f.tier):
		return notUTF8("tier", f.tier)
	case !utf8.ValidString(f.model):
		return notUTF8("model", f.model)
	case !utf8.ValidString(f.requestID):
		return notUTF8("request_id", f.requestID)
	}
	for name := range f.costs {
		if !utf8.ValidString(name) {
			return notUTF8("costs", name)
		}
	}
	return nil
}

// tooLarge reports whether the call is too large for a batch.
func (f *callFields) tooLarge() bool {
	n := len(f.key) + len(f.tier) + len(f.model) + len(f.requestID)
	for name := range f.costs {
		n += len(name) + 16
	}
	return n > maxBatchedBytes
}

func notUTF8(field, value string) error {
	message := field + ": must be valid UTF-8, got " + quote.Quote(value)
	return &InvalidError{Field: field, Message: message, status: status.Error(codes.InvalidArgument, message)}
}
