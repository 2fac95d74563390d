// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Bounds of the calls that are remembered until an heir has them. Beyond them all charges
// wait for the heir.
const (
	maxAnsweredAtOnce = 1 << 20  // bytes of one partition
	maxAnswered       = 64 << 20 // bytes of all partitions
)

// answered remembers the calls that this member has answered before its heir had their
// charges: small ones, and those of limits with durability async. If another member
// becomes the owner without them, they are reported to it; see [Router.Report]. It is safe
// for concurrent use. Its methods for single calls lock one partition, and allocate only
// while the memory of that partition grows.
type answered struct {
	partitions []answeredCalls
	size       atomic.Int64 // bytes of memory of all callLogs
}

// answeredCalls are the calls of one partition. They are in two logs so that memory is
// used again while there are always calls that the heir lacks: all of older come before
// those of newer.
type answeredCalls struct {
	sync.Mutex
	origin       uint64 // since which term this member has owned the partition; of all calls
	older, newer callLog
	// Calls of origins below ended, with changes above after, are reported as soon as they
	// are added: another member is the owner.
	ended, after uint64
}

// callLog is calls, encoded one after the other.
type callLog struct {
	calls []byte
	last  uint64 // change of the last call
}

func newAnswered() *answered {
	return &answered{partitions: make([]answeredCalls, ring.Partitions)}
}

// full reports whether no more calls of a partition should be added.
func (a *answered) full(partition int) bool {
	p := &a.partitions[partition]
	p.Lock()
	defer p.Unlock()
	return len(p.older.calls)+len(p.newer.calls) >= maxAnsweredAtOnce || a.size.Load() >= maxAnswered
}

// add remembers a call that is answered now, when the heir has the changes up to
// acknowledged. It returns the encoded call instead if it has to be reported at once.
func (a *answered) add(c *call.Call, change *server.Change, acknowledged uint64, now time.Duration) (late []byte, err error) {
	p := &a.partitions[c.Partition]
	p.Lock()
	defer p.Unlock()
	switch {
	case change.Since < p.ended:
		if change.Seq <= p.after {
			return nil, nil
		}
		return appendCall(nil, c, change, now)
	case change.Since < p.origin:
		return nil, nil // the owner that came between started from it
	case change.Since > p.origin:
		p.origin = change.Since
		a.reset(&p.older)
		a.reset(&p.newer)
	}
	if p.older.last <= acknowledged && len(p.newer.calls) > 0 {
		a.reset(&p.older)
		p.older, p.newer = p.newer, p.older
		if p.older.last <= acknowledged {
			a.reset(&p.older)
		}
	}
	before := cap(p.newer.calls)
	calls, err := appendCall(p.newer.calls, c, change, now)
	if err != nil {
		return nil, err
	}
	p.newer.calls, p.newer.last = calls, max(p.newer.last, change.Seq)
	a.size.Add(int64(cap(calls) - before))
	return nil, nil
}

// reset empties a log, and frees its memory if there is too much of it.
func (a *answered) reset(l *callLog) {
	*l = callLog{calls: l.calls[:0]}
	if a.size.Load() > maxAnswered/2 {
		a.free(l)
	}
}

func (a *answered) free(l *callLog) {
	a.size.Add(-int64(cap(l.calls)))
	*l = callLog{}
}

// end removes the calls of a partition that this member has owned since origin or a term
// before. It returns those whose changes are above after, encoded, and calls that are added
// later are to be reported at once.
func (a *answered) end(partition int, origin, after uint64) (calls []byte) {
	p := &a.partitions[partition]
	p.Lock()
	defer p.Unlock()
	p.ended, p.after = origin+1, after
	for _, l := range []*callLog{&p.older, &p.newer} {
		for rest := l.calls; len(rest) > 0; {
			var next []byte
			next, rest = cutCall(rest)
			if seqOf(next) > after {
				calls = append(calls, next...)
			}
		}
		a.free(l)
	}
	return calls
}

// trim frees the memory of partitions whose calls heirs have.
func (a *answered) trim(acknowledged func(partition int) uint64) {
	for i := range a.partitions {
		p := &a.partitions[i]
		p.Lock()
		if cap(p.older.calls)+cap(p.newer.calls) > 0 && max(p.older.last, p.newer.last) <= acknowledged(i) {
			a.free(&p.older)
			a.free(&p.newer)
		}
		p.Unlock()
	}
}

// An encoded call is the number of its change, its attempt, when it was answered, its kind,
// the length of what follows, and the request.
const (
	seqAt     = 0
	attemptAt = 8
	timeAt    = 16
	kindAt    = 24
	lengthAt  = 25
	requestAt = 29
)

var (
	checkID  = fieldNumber(&pb.CheckRequest{}, "request_id")
	countID  = fieldNumber(&pb.CountRequest{}, "request_id")
	countEnd = fieldNumber(&pb.CountRequest{}, "window_end")
)

func fieldNumber(m proto.Message, name protoreflect.Name) protowire.Number {
	return m.ProtoReflect().Descriptor().Fields().ByName(name).Number()
}

// appendCall appends a check or a count as it is replayed.
func appendCall(b []byte, c *call.Call, change *server.Change, now time.Duration) ([]byte, error) {
	start := len(b)
	b = binary.LittleEndian.AppendUint64(b, change.Seq)
	b = binary.LittleEndian.AppendUint64(b, c.Attempt)
	b = binary.LittleEndian.AppendUint64(b, uint64(now))
	b = append(b, byte(c.Kind), 0, 0, 0, 0)
	var err error
	switch c.Kind {
	case call.Check:
		b, err = proto.MarshalOptions{}.MarshalAppend(b, c.Check())
		b = appendText(b, checkID, c.RequestID)
	case call.Count:
		b, err = proto.MarshalOptions{}.MarshalAppend(b, c.Count())
		b = appendText(b, countID, c.RequestID)
		b = protowire.AppendVarint(protowire.AppendTag(b, countEnd, protowire.VarintType), uint64(change.WindowEnd))
	default:
		err = fmt.Errorf("%s: must be a check or a count", c.Kind)
	}
	if err != nil {
		return nil, fmt.Errorf("remember a call until it is replicated: %w", err)
	}
	binary.LittleEndian.PutUint32(b[start+lengthAt:], uint32(len(b)-start-requestAt))
	return b, nil
}

// appendText appends a field, whose last value counts.
func appendText(b []byte, n protowire.Number, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), value)
}

// cutCall returns the first encoded call and those after it.
func cutCall(calls []byte) (first, rest []byte) {
	n := requestAt + int(binary.LittleEndian.Uint32(calls[lengthAt:]))
	return calls[:n:n], calls[n:]
}

func seqOf(encoded []byte) uint64 { return binary.LittleEndian.Uint64(encoded[seqAt:]) }

// timeOf returns when a call was answered, on the clock of the owners.
func timeOf(encoded []byte) time.Duration {
	return time.Duration(binary.LittleEndian.Uint64(encoded[timeAt:]))
}

// since returns the calls that were answered at a time or later, and how many were not.
func since(calls []byte, at time.Duration) (young []byte, old int) {
	for len(calls) > 0 {
		var next []byte
		if next, calls = cutCall(calls); timeOf(next) >= at {
			young = append(young, next...)
		} else {
			old++
		}
	}
	return young, old
}

// decodeCall returns an encoded call, to be replayed.
func decodeCall(encoded []byte) (call.Call, error) {
	var request proto.Message = &pb.CheckRequest{}
	if call.Kind(encoded[kindAt]) == call.Count {
		request = &pb.CountRequest{}
	}
	if err := proto.Unmarshal(encoded[requestAt:], request); err != nil {
		return call.Call{}, fmt.Errorf("decode a call to be reported: %w", err)
	}
	c := call.Of(request)
	c.Origin, c.Replay, c.Attempt = call.Outbox, true, binary.LittleEndian.Uint64(encoded[attemptAt:])
	return c, nil
}
