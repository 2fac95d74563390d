// SPDX-License-Identifier: Apache-2.0

package workload

import "strconv"

// ids makes request ids: the begin and a number in base 36, of at least six
// digits. They are parts of longer texts, so that hundreds cost one allocation; an
// id that is kept keeps the others of its text.
type ids struct {
	begin string
	next  int64
	left  string // ids that were not given out, each of width bytes
	width int
	block []byte // where texts are made
}

const idsPerText = 256

func (d *ids) take() string {
	if d.left == "" {
		d.fill()
	}
	id := d.left[:d.width]
	d.left = d.left[d.width:]
	return id
}

func (d *ids) fill() {
	// All of a text have as many digits as its last. Numbers only grow, so an id
	// with more digits than another is not the same.
	last := d.next + idsPerText - 1
	digits := max(6, len(strconv.FormatInt(last, 36)))
	d.width = len(d.begin) + digits
	d.block = d.block[:0]
	for ; d.next <= last; d.next++ {
		d.block = append(d.block, d.begin...)
		var buffer [16]byte
		text := strconv.AppendInt(buffer[:0], d.next, 36)
		for range digits - len(text) {
			d.block = append(d.block, '0')
		}
		d.block = append(d.block, text...)
	}
	d.left = string(d.block)
}
