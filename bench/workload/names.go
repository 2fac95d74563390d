// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"strconv"
	"strings"
)

// names are the keys of a population. They lie one after the other in one text,
// all of one width: a key is a part of it and costs no allocation, and a collector
// that meets millions of keys meets one object.
type names struct {
	text  string
	width int
}

func (n *names) at(i int64) string {
	from := int(i) * n.width
	return n.text[from : from+n.width]
}

// maxNameBytes bounds the text of one population.
const maxNameBytes = 1<<31 - 1

// levelNames are the segments of a key, outermost first.
var levelNames = [maxLevels][]string{
	{"user"},
	{"org", "user"},
	{"org", "team", "user"},
	{"org", "team", "user", "app"},
}

// newNames makes the keys of a population: prefix user-0042, or prefix
// org-07/user-042. Of several populations of a mixture, the later ones are told
// apart by nth: user2-0042.
func newNames(p *population, prefix string, nth int) (names, error) {
	if p.kind == hotKey {
		return names{prefix + p.key, len(prefix) + len(p.key)}, nil
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
		return names{}, fmt.Errorf("%s keys of %d bytes need more than 2 GiB; use fewer or a shorter prefix", number(count), width)
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
	return names{b.String(), width}, nil
}

type level struct {
	name   string
	digits int
}

// writePadded writes n with that many digits.
func writePadded(b *strings.Builder, n int64, digits int) {
	var buffer [20]byte
	for i := digits - 1; i >= 0; i-- {
		buffer[i] = byte('0' + n%10)
		n /= 10
	}
	b.Write(buffer[:digits])
}

// chooser draws keys.
type chooser struct {
	random random
	parts  []drawn
}

// drawn is a population with its keys.
type drawn struct {
	upTo  uint64 // of the millionths of the calls, with all parts before
	count uint64
	names names
	zipf  *zipf
}

func newChooser(k Keys, prefix string, seed uint64) (*chooser, error) {
	c := &chooser{random: newRandom(seed, ofKeys)}
	upTo, nth := uint64(0), 0
	for i := range k.parts {
		p := &k.parts[i]
		if p.kind != hotKey {
			nth++
		}
		n, err := newNames(p, prefix, nth)
		if err != nil {
			return nil, in("keys", k.String(), "", err)
		}
		upTo += uint64(p.share)
		d := drawn{upTo: upTo, count: uint64(p.count()), names: n}
		if p.kind == zipfKeys {
			z := newZipf(p.count(), float64(p.exponent)/1000)
			d.zipf = &z
		}
		c.parts = append(c.parts, d)
	}
	return c, nil
}

func (c *chooser) next() string {
	part := &c.parts[0]
	if len(c.parts) > 1 {
		place := c.random.below(uint64(whole))
		for i := range c.parts {
			if part = &c.parts[i]; place < part.upTo {
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
