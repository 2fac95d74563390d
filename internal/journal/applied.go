// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/binary"
	"slices"
	"sync"
)

const (
	// maxApplied is the most bytes of messages that wait to be written. Partitions whose
	// messages are dropped are read again: the changes of owners, and all of a copy.
	maxApplied = 32 << 20
	// keptApplied is the capacity of a list of messages that is used again.
	keptApplied = 1 << 20
)

// Section says what a message has of a partition.
type Section struct {
	Partition      int
	After, Through uint64 // the message has all changes after one number through the other
	Origin         uint64 // see Copy, as Complete
	Complete       bool
}

// appliedMessages are messages that wait to be written. While one list is written, the other
// is filled.
type appliedMessages struct {
	sync.Mutex
	waiting, written messageList
}

// messageList is messages, one after the other.
type messageList struct {
	messages []byte
	sections []Section
	ends     []messageEnd
}

// messageEnd says where a message and its sections end.
type messageEnd struct {
	message, section int
	wall             int64
}

// reset empties the list, and frees the memory of a large one.
func (l *messageList) reset() {
	if cap(l.messages) > keptApplied {
		*l = messageList{}
	}
	*l = messageList{l.messages[:0], l.sections[:0], l.ends[:0]}
}

// Applied hands over a message of changes: one that the state has just applied, because a
// copy that is changed by messages lists no changes, or one that an owner has just made for
// its heir, so that the same changes are not read twice. wall is the time of the clock as of
// which it was applied or made. It copies its arguments, never waits for the disk, and is
// safe for concurrent use.
func (j *Journal) Applied(message []byte, wall int64, sections []Section) {
	a := &j.applied
	a.Lock()
	defer a.Unlock()
	l := &a.waiting
	if len(l.messages)+len(message) > maxApplied {
		return
	}
	l.messages, l.sections = append(l.messages, message...), append(l.sections, sections...)
	l.ends = append(l.ends, messageEnd{len(l.messages), len(l.sections), wall})
}

// writeApplied writes the messages that wait. It returns false if that failed.
func (j *Journal) writeApplied() bool {
	a := &j.applied
	a.Lock()
	a.waiting, a.written = a.written, a.waiting
	a.Unlock()
	l := &a.written // of this goroutine
	defer l.reset()
	for n := 0; n < len(l.ends); {
		var ok bool
		if n, ok = j.writeMessages(l, n); !ok {
			return false
		}
	}
	return true
}

// overwritten is what the journal had of a partition.
type overwritten struct {
	partition int
	written
}

// writeMessages writes the messages from number n on, at once unless they are many, and
// returns the number of the first that it has not written. Each is a block of its own.
func (j *Journal) writeMessages(l *messageList, n int) (next int, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed {
		return n, false
	}
	j.block, j.undo = j.block[:0], j.undo[:0]
	for ; n < len(l.ends) && len(j.block) < messageSize; n++ {
		var begin messageEnd
		if n > 0 {
			begin = l.ends[n-1]
		}
		end := l.ends[n]
		j.addMessage(l.messages[begin.message:end.message], end.wall, l.sections[begin.section:end.section])
	}
	if len(j.block) == 0 {
		return n, true
	}
	if err, cut := j.put(j.block); err != nil {
		for _, before := range slices.Backward(j.undo) {
			j.written[before.partition] = before.written
		}
		j.notWritten(err, cut)
		return n, false
	}
	return n, true
}

// addMessage adds a block with a message to those that are to be written, for the partitions
// of which the journal has what is before. It takes note of that as if it were written. It
// changes sections.
func (j *Journal) addMessage(message []byte, wall int64, sections []Section) {
	wanted := sections[:0]
	for _, s := range sections {
		if w := &j.written[s.Partition]; w.held && s.After <= w.Seq && w.Seq < s.Through {
			wanted = append(wanted, s)
		}
	}
	if len(wanted) == 0 {
		return
	}
	begin := len(j.block)
	j.block = binary.AppendUvarint(append(beginBlock(j.block), kindChanges), uint64(len(wanted)))
	for _, s := range wanted {
		of := section{partition: s.Partition, flags: flagMessage, origin: s.Origin, seq: s.Through}
		if s.Complete {
			of.flags |= flagComplete
		}
		j.block = of.append(j.block)
		w := &j.written[s.Partition]
		j.undo = append(j.undo, overwritten{s.Partition, *w})
		w.Copy = Copy{Origin: s.Origin, Seq: s.Through, Complete: s.Complete}
	}
	j.block = append(j.block, message...)
	endBlock(j.block[begin:], j.salt, j.size+int64(begin), j.synced, wall)
}
