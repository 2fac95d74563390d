// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/bucketring/bucketring/internal/servicetier"
	"github.com/bucketring/bucketring/internal/text"
)

// ServiceTiers are the factors of named service tiers, such as flex or priority, by which
// the prices of tokens are multiplied. Fees are not. Two values are equal if and only if
// their names and factors are, and the zero value has no names.
type ServiceTiers struct {
	// The names in order. Each is one byte with its length, the name, and 8 bytes,
	// little-endian, with its factor. A string can be compared and needs no allocation.
	table string
}

// Bounds of [ServiceTiers].
const (
	MaxServiceTiers    = 16
	MaxServiceTierName = servicetier.MaxBytes
	MaxServiceFactor   = 1000 * 1e6 // millionths
	normalFactor       = int64(1e6) // millionths
	maxServiceTable    = MaxServiceTiers * (1 + MaxServiceTierName + 8)
)

// NewServiceTiers returns the service tiers with those factors, in millionths. The error
// says which of the bounds is exceeded.
func NewServiceTiers(factors map[string]int64) (ServiceTiers, error) {
	if len(factors) > MaxServiceTiers {
		return ServiceTiers{}, fmt.Errorf("a model has at most %d service tiers, got %d", MaxServiceTiers, len(factors))
	}
	var table []byte
	for _, name := range slices.Sorted(maps.Keys(factors)) {
		factor := factors[name]
		if name == "" {
			return ServiceTiers{}, errors.New("the name of a service tier must not be empty")
		}
		if problem := servicetier.Problem(name); problem != "" {
			return ServiceTiers{}, fmt.Errorf("the name of a service tier %s, got %s", problem, text.Quote(name))
		}
		if factor < 0 || factor > MaxServiceFactor {
			return ServiceTiers{}, fmt.Errorf("service tier %q: the factor must be between 0 and %d millionths, got %d", name, int64(MaxServiceFactor), factor)
		}
		table = append(append(table, byte(len(name))), name...)
		table = binary.LittleEndian.AppendUint64(table, uint64(factor))
	}
	return ServiceTiers{string(table)}, nil
}

// Factor returns the factor of a service tier in millionths. It is that of the normal
// price, a million, if the name is not known.
func (s ServiceTiers) Factor(name string) int64 {
	if name == "" {
		return normalFactor
	}
	for rest := s.table; rest != ""; {
		var known string
		var factor int64
		if known, factor, rest = firstServiceTier(rest); known == name {
			return factor
		}
	}
	return normalFactor
}

// firstServiceTier returns the first name of a table, its factor, and the other names.
func firstServiceTier(table string) (name string, factor int64, rest string) {
	n := 1 + int(table[0])
	return table[1:n], int64(word(table[n:])), table[n+8:]
}

// All returns the names and their factors, in the order of the names.
func (s ServiceTiers) All() iter.Seq2[string, int64] {
	return func(yield func(string, int64) bool) {
		for rest := s.table; rest != ""; {
			var name string
			var factor int64
			if name, factor, rest = firstServiceTier(rest); !yield(name, factor) {
				return
			}
		}
	}
}

// serviceTiersOf returns the service tiers with a table that was received.
func serviceTiersOf(table string) (ServiceTiers, error) {
	factors := map[string]int64{}
	for rest := table; rest != ""; {
		if len(rest) < 1+int(rest[0])+8 {
			return ServiceTiers{}, errors.New("the service tiers end too early")
		}
		name, factor, more := firstServiceTier(rest)
		factors[name], rest = factor, more
	}
	s, err := NewServiceTiers(factors)
	if err == nil && s.table != table {
		err = errors.New("the service tiers are not in order")
	}
	return s, err
}
