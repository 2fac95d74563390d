// SPDX-License-Identifier: Apache-2.0

// Package coding decodes bodies with a Content-Encoding: zstd, gzip and deflate, and two
// of them one after the other.
//
// Everything about a decoder is bounded: the bytes that it reads, the bytes that each
// coding decodes to, and its memory. It starts no goroutine.
package coding

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/bucketring/bucketring/internal/text"
)

// Accepted is the value of an Accept-Encoding header that names all codings.
const Accepted = "zstd, gzip, deflate"

// maxCodings bounds the codings of one body.
const maxCodings = 2

// A Coding is a content coding other than identity.
type Coding uint8

// The codings that are decoded.
const (
	Zstd Coding = iota
	Gzip
	Deflate // with the zlib header of RFC 9110, or without, as some clients send it
)

// String returns the name of the coding in a header.
func (c Coding) String() string { return [...]string{"zstd", "gzip", "deflate"}[c] }

// Of returns the codings of a body in the order in which they were applied, without
// identity. The error names a coding that is not decoded.
func Of(h http.Header) ([]Coding, error) {
	var codings []Coding
	for _, value := range h["Content-Encoding"] {
		for name := range strings.SplitSeq(value, ",") {
			switch name = strings.ToLower(strings.TrimSpace(name)); name {
			case "", "identity":
			case "zstd":
				codings = append(codings, Zstd)
			case "gzip", "x-gzip":
				codings = append(codings, Gzip)
			case "deflate":
				codings = append(codings, Deflate)
			default:
				return nil, fmt.Errorf("content coding %s is not supported", text.Quote(name))
			}
		}
	}
	if len(codings) > maxCodings {
		return nil, fmt.Errorf("a body may have %d content codings, got %d", maxCodings, len(codings))
	}
	return codings, nil
}

// ErrTooLarge means that there are more bytes than [Options].MaxBytes, encoded or decoded.
var ErrTooLarge = errors.New("too many bytes")

// InvalidError means that a body cannot be decoded.
type InvalidError struct {
	Coding Coding
	Err    error
}

// Error implements error.
func (e *InvalidError) Error() string { return fmt.Sprintf("invalid %s: %v", e.Coding, e.Err) }

// Unwrap returns the error of the decoder.
func (e *InvalidError) Unwrap() error { return e.Err }
