// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/binary"
	"slices"
	"sync"
)

// maxApplied is the most bytes of applied messages that wait to be written. Partitions
// whose messages are dropped are written as a whole.
const maxApplied = 32 << 20

// Section says what an applied message has of a partition.
type Section struct {
	Partition      int
	After, Through uint64 // the message has all changes after one number through the other
	Origin         uint64 // see Copy, as Complete
	Complete       bool
}

// appliedMessages are messages that wait to be written.
type appliedMessages struct {
	sync.Mutex
	list []appliedMessage
	size int
}

type appliedMessage struct {
	message  []byte
	wall     int64
	sections []Section
}

// Applied hands over a message of changes that the state has just applied, because a copy
// that is changed by messages lists no changes. wall is the time of the clock as of which
// it was applied. It copies its arguments, never waits for the disk, and is safe for
// concurrent use.
func (j *Journal) Applied(message []byte, wall int64, sections []Section) {
	a := &j.applied
	a.Lock()
	defer a.Unlock()
	if a.size+len(message) > maxApplied {
		return
	}
	a.size += len(message)
	a.list = append(a.list, appliedMessage{slices.Clone(message), wall, slices.Clone(sections)})
}

// writeApplied writes the messages that wait. It returns false if that failed.
func (j *Journal) writeApplied() bool {
	a := &j.applied
	a.Lock()
	list := a.list
	a.list, a.size = nil, 0
	a.Unlock()
	for i := range list {
		if !j.writeMessage(&list[i]) {
			return false
		}
	}
	return true
}

// writeMessage writes a message for the partitions of which the journal has what is before.
func (j *Journal) writeMessage(m *appliedMessage) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	sections := m.sections[:0]
	for _, s := range m.sections {
		if w := &j.written[s.Partition]; w.held && s.After <= w.Seq && w.Seq < s.Through {
			sections = append(sections, s)
		}
	}
	if len(sections) == 0 {
		return true
	}
	j.block = binary.AppendUvarint(append(beginBlock(j.block[:0]), kindChanges), uint64(len(sections)))
	for _, s := range sections {
		of := section{partition: s.Partition, flags: flagMessage, origin: s.Origin, seq: s.Through}
		if s.Complete {
			of.flags |= flagComplete
		}
		j.block = of.append(j.block)
	}
	j.block = append(j.block, m.message...)
	if !j.write(j.block, m.wall) {
		return false
	}
	for _, s := range sections {
		j.written[s.Partition].Copy = Copy{Origin: s.Origin, Seq: s.Through, Complete: s.Complete}
	}
	return true
}
