// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"strconv"
	"strings"
)

// keyNames are the keys of a population, all of the same length, in one string. A key
// is a substring and costs no allocation, and the garbage collector sees one object
// instead of millions.
type keyNames struct {
	text  string
	width int
}

func (n *keyNames) at(i int64) string {
	from := int(i) * n.width
	return n.text[from : from+n.width]
}

// maxNameBytes bounds the length of that string.
const maxNameBytes = 1<<31 - 1

// levelNames are the segments of a key, outermost first.
var levelNames = [maxLevels][]string{
	{"user"},
	{"org", "user"},
	{"org", "team", "user"},
	{"org", "team", "user", "app"},
}

// newKeyNames makes the keys of a population: prefix + user-0042, or prefix +
// org-07/user-042. The nth population of a mixture has user2-0042.
func newKeyNames(p *population, prefix string, nth int) (keyNames, error) {
	if p.kind == hotKey {
		return keyNames{prefix + p.key, len(prefix) + len(p.key)}, nil
	}
	levels := make([]level, len(p.sizes))
	width := len(prefix) + len(p.sizes) - 1
	for i, size := range p.sizes {
		name := levelNames[len(p.sizes)-1][i]
		if i == 0 && nth > 1 {
			name += strconv.Itoa(nth)
		}
		levels[i] = level{name + "-", len(strconv.FormatInt(size-1, 10))}
		width += len(levels[i].name) + levels[i].digits
	}
	count := p.count()
	if count*int64(width) > maxNameBytes {
		return keyNames{}, fmt.Errorf("%s keys of %d bytes need more than 2 GiB; use fewer keys or a shorter prefix", formatNumber(count), width)
	}
	var b strings.Builder
	b.Grow(int(count) * width)
	at := make([]int64, len(levels))
	for range count {
		b.WriteString(prefix)
		for i, l := range levels {
			if i > 0 {
				b.WriteByte('/')
			}
			b.WriteString(l.name)
			writePadded(&b, at[i], l.digits)
		}
		for i := len(at) - 1; i >= 0; i-- {
			if at[i]++; at[i] < p.sizes[i] {
				break
			}
			at[i] = 0
		}
	}
	return keyNames{b.String(), width}, nil
}

type level struct {
	name   string
	digits int
}

// writePadded writes n with leading zeros.
func writePadded(b *strings.Builder, n int64, digits int) {
	var buffer [20]byte
	for i := digits - 1; i >= 0; i-- {
		buffer[i] = byte('0' + n%10)
		n /= 10
	}
	b.Write(buffer[:digits])
}

// keyPicker draws keys.
type keyPicker struct {
	random random
	parts  []keySet
}

// keySet is a population and its keys.
type keySet struct {
	upTo  uint64 // cumulative share, in millionths
	count uint64
	names keyNames
	zipf  *zipf
}

func newKeyPicker(k Keys, prefix string, seed uint64) (*keyPicker, error) {
	c := &keyPicker{random: newRandom(seed, seqKeys)}
	upTo, nth := uint64(0), 0
	for i := range k.parts {
		p := &k.parts[i]
		if p.kind != hotKey {
			nth++
		}
		n, err := newKeyNames(p, prefix, nth)
		if err != nil {
			return nil, inPart("keys", k.String(), "", err)
		}
		upTo += uint64(p.share)
		d := keySet{upTo: upTo, count: uint64(p.count()), names: n}
		if p.kind == zipfKeys {
			z := newZipf(p.count(), float64(p.exponent)/1000)
			d.zipf = &z
		}
		c.parts = append(c.parts, d)
	}
	return c, nil
}

func (c *keyPicker) next() string {
	part := &c.parts[0]
	if len(c.parts) > 1 {
		at := c.random.below(uint64(fullShare))
		for i := range c.parts {
			if part = &c.parts[i]; at < part.upTo {
				break
			}
		}
	}
	switch {
	case part.zipf != nil:
		return part.names.at(part.zipf.draw(&c.random) - 1)
	case part.count == 1:
		return part.names.text
	default:
		return part.names.at(int64(c.random.below(part.count)))
	}
}
