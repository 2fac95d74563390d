// SPDX-License-Identifier: Apache-2.0

package workload

import "strconv"

// idGenerator makes request ids: a prefix and a number in base 36, of at least six
// digits. It allocates once for idsPerText ids, which are parts of one string; an id
// that is kept alive keeps that string.
type idGenerator struct {
	prefix string
	next   int64
	unused string // ids that were not taken yet, each of width bytes
	width  int
	buffer []byte
}

const idsPerText = 256

func (d *idGenerator) take() string {
	if d.unused == "" {
		d.fill()
	}
	id := d.unused[:d.width]
	d.unused = d.unused[d.width:]
	return id
}

func (d *idGenerator) fill() {
	// All ids of a string have as many digits as the last one. An id with more digits
	// never equals an earlier one, since the numbers only grow.
	last := d.next + idsPerText - 1
	digits := max(6, len(strconv.FormatInt(last, 36)))
	d.width = len(d.prefix) + digits
	d.buffer = d.buffer[:0]
	for ; d.next <= last; d.next++ {
		d.buffer = append(d.buffer, d.prefix...)
		var digitBuffer [16]byte
		text := strconv.AppendInt(digitBuffer[:0], d.next, 36)
		for range digits - len(text) {
			d.buffer = append(d.buffer, '0')
		}
		d.buffer = append(d.buffer, text...)
	}
	d.unused = string(d.buffer)
}
