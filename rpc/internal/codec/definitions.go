// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Bounds of the definitions of a stream. A receiver keeps at most 4 MiB for a stream, and a
// few KiB of those that policies make.
const (
	MaxDefinitions     = 1024
	maxDefinitionBytes = 4 << 10
)

// A Definition is what answers of a stream have in common of a limit: a pb.LimitDefinition.
// Its texts are valid UTF-8.
type Definition struct {
	Name, Dimension, Algorithm string
	Limit, Capacity            int64
	Window, MaxWait            time.Duration
	Shadow, Hidden             bool
}

// Definitions are those that one stream has brought, in the order of their numbers, which
// begin with 1. A stream has one goroutine that adds to them; others may read what they were
// before.
type Definitions []Definition

var (
	errDefinitionTooLarge = fmt.Errorf("definition of a limit: more than %d bytes", maxDefinitionBytes)
	errTooManyDefinitions = fmt.Errorf("definition of a limit: more than %d on a stream", MaxDefinitions)
	errUnknownDefinition  = errors.New("answer: a limit has a definition that did not come")
)

// AppendDefinition appends d to the encoded definitions of a pb.Answers. It returns false if
// no receiver would accept it.
func AppendDefinition(answers []byte, d *pb.LimitDefinition) ([]byte, bool) {
	for _, text := range [...]string{d.GetName(), d.GetDimension(), d.GetAlgorithm()} {
		if !utf8.ValidString(text) {
			return answers, false
		}
	}
	n := proto.Size(d)
	if n > maxDefinitionBytes || d.GetNumber() > MaxDefinitions {
		return answers, false
	}
	with := protowire.AppendTag(answers, answersDefinitions, protowire.BytesType)
	with, err := proto.MarshalOptions{}.MarshalAppend(protowire.AppendVarint(with, uint64(n)), d)
	if err != nil {
		return answers, false
	}
	return with, true
}

// Add returns the definitions with another one, an encoded pb.LimitDefinition. After an
// error the stream cannot be understood any more.
func (ds Definitions) Add(encoded []byte) (Definitions, error) {
	if len(encoded) > maxDefinitionBytes {
		return ds, errDefinitionTooLarge
	}
	if len(ds) >= MaxDefinitions {
		return ds, errTooManyDefinitions
	}
	var d pb.LimitDefinition
	if err := proto.Unmarshal(encoded, &d); err != nil {
		return ds, fmt.Errorf("definition of a limit: %w", err)
	}
	if got, want := d.GetNumber(), uint32(len(ds))+1; got != want {
		return ds, fmt.Errorf("definition of a limit: number %d, want %d", got, want)
	}
	return append(ds, Definition{
		Name: d.GetName(), Dimension: d.GetDimension(), Algorithm: d.GetAlgorithm(),
		Limit: d.GetLimit(), Capacity: d.GetCapacity(),
		Window: time.Duration(d.GetWindowNanos()), MaxWait: time.Duration(d.GetMaxWaitNanos()),
		Shadow: d.GetShadow(), Hidden: d.GetHidden(),
	}), nil
}

// find returns the definition with a number.
func (ds Definitions) find(number uint32) (*Definition, error) {
	if i := int(number) - 1; i >= 0 && i < len(ds) {
		return &ds[i], nil
	}
	return nil, errUnknownDefinition
}

// ScopeBytes returns how many bytes of a key a scope is. It returns false for a scope that
// is no level of the key.
func ScopeBytes(key, scope string) (uint32, bool) {
	if !strings.HasPrefix(key, scope) || !isLevel(key, len(scope)) {
		return 0, false
	}
	return uint32(len(scope)), true
}

// isLevel reports whether the first n bytes of a key are whole segments of it.
func isLevel(key string, n int) bool { return n == len(key) || n > 0 && n < len(key) && key[n] == '/' }
