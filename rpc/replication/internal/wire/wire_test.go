// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/cluster/continuity"
)

var (
	ids = rapid.Custom(func(t *rapid.T) continuity.ID {
		if rapid.IntRange(0, 3).Draw(t, "nobody") == 0 {
			return continuity.ID{}
		}
		return continuity.ID{Name: rapid.SampledFrom([]string{"", "a", "node-1.example", "ü"}).Draw(t, "name"), Boot: numbers.Draw(t, "boot")}
	})
	numbers = rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 3), rapid.Just(uint64(math.MaxUint64)))
	times   = rapid.Custom(func(t *rapid.T) time.Duration { return time.Duration(rapid.Int64().Draw(t, "time")) })
	copies  = rapid.Custom(func(t *rapid.T) continuity.Copy {
		return continuity.Copy{Origin: numbers.Draw(t, "origin"), Seq: numbers.Draw(t, "seq"), Complete: rapid.Bool().Draw(t, "complete")}
	})
	partitions = rapid.OneOf(rapid.Uint32Range(0, 4095), rapid.Uint32Range(0, maxPartition))
	rosters    = rapid.Custom(func(t *rapid.T) continuity.Roster {
		names := rapid.SliceOfNDistinct(rapid.StringN(0, 5, 20), 0, 4, rapid.ID[string]).Draw(t, "names")
		slices.Sort(names)
		if len(names) == 0 {
			names = nil
		}
		return continuity.Roster{Epoch: numbers.Draw(t, "epoch"), Names: names}
	})
	arrangements = rapid.Custom(func(t *rapid.T) continuity.Arrangement {
		return continuity.Arrangement{
			Term: numbers.Draw(t, "term"), Prev: numbers.Draw(t, "prev"), Origin: numbers.Draw(t, "origin"),
			Owner: ids.Draw(t, "owner"), Heir: ids.Draw(t, "heir"), Base: copies.Draw(t, "base"),
		}
	})
	beats = rapid.Custom(func(t *rapid.T) continuity.Beat {
		return continuity.Beat{Partition: partitions.Draw(t, "partition"), Term: numbers.Draw(t, "term")}
	})
	grants = rapid.Custom(func(t *rapid.T) continuity.Grant {
		return continuity.Grant{Partition: partitions.Draw(t, "partition"), Term: numbers.Draw(t, "term"), Copy: copies.Draw(t, "copy")}
	})
	entries = rapid.Custom(func(t *rapid.T) continuity.Entry {
		isEntry := func(kind byte) bool { return continuity.Kind(kind) != continuity.Ack }
		e := continuity.Entry{Kind: continuity.Kind(rapid.Byte().Filter(isEntry).Draw(t, "kind"))}
		some := func() bool { return rapid.Bool().Draw(t, "set") }
		e.Flag, e.OwnerDead, e.HeirDead = some(), some(), some()
		if some() {
			e.Partition, e.Ballot, e.Accepted = int(partitions.Draw(t, "partition")), numbers.Draw(t, "ballot"), numbers.Draw(t, "accepted")
		}
		if some() {
			e.Transfer, e.Digest, e.Sent = numbers.Draw(t, "transfer"), numbers.Draw(t, "digest"), times.Draw(t, "sent")
		}
		if some() {
			e.Value, e.Copy = arrangements.Draw(t, "value"), copies.Draw(t, "copy")
		}
		if some() {
			e.Roster = rosters.Draw(t, "roster")
		}
		return e
	})
	acks = rapid.Custom(func(t *rapid.T) continuity.Acknowledgement {
		return continuity.Acknowledgement{
			Partition: partitions.Draw(t, "partition"), Term: numbers.Draw(t, "term"), Transfer: numbers.Draw(t, "transfer"), Copy: copies.Draw(t, "copy"),
		}
	})
	states = rapid.Custom(func(t *rapid.T) continuity.StateTransfer {
		return continuity.StateTransfer{
			Partition: int(partitions.Draw(t, "partition")), Term: numbers.Draw(t, "term"), Origin: numbers.Draw(t, "origin"),
			Transfer: numbers.Draw(t, "transfer"), After: numbers.Draw(t, "after"), Through: numbers.Draw(t, "through"),
		}
	})
	frames = rapid.Custom(func(t *rapid.T) Frame {
		m := continuity.Message{
			From: ids.Draw(t, "from"), To: ids.Draw(t, "to"), Epoch: numbers.Draw(t, "epoch"),
			Sent: times.Draw(t, "sent"), Answered: times.Draw(t, "answered"),
			Entries: rapid.SliceOf(entries).Draw(t, "entries"), Acks: rapid.SliceOf(acks).Draw(t, "acks"),
			Beats:   rapid.SliceOf(beats).Draw(t, "beats"), Grants: rapid.SliceOf(grants).Draw(t, "grants"),
		}
		f := Frame{Message: m, States: rapid.SliceOf(states).Draw(t, "states"), Records: rapid.SliceOf(rapid.Byte()).Draw(t, "records")}
		for i := range f.States {
			f.States[i].From, f.States[i].To = m.From, m.To
		}
		return f
	})
)

// equal compares frames. Empty slices equal nil ones.
func equal(a, b Frame) bool {
	if len(a.Message.Entries) != len(b.Message.Entries) {
		return false
	}
	for i := range a.Message.Entries {
		if !reflect.DeepEqual(a.Message.Entries[i], b.Message.Entries[i]) {
			return false
		}
	}
	x, y := a.Message, b.Message
	return x.From == y.From && x.To == y.To && x.Epoch == y.Epoch && x.Sent == y.Sent && x.Answered == y.Answered &&
		slices.Equal(x.Acks, y.Acks) && slices.Equal(x.Beats, y.Beats) && slices.Equal(x.Grants, y.Grants) && slices.Equal(a.States, b.States) && slices.Equal(a.Records, b.Records)
}

// TestFramesAreDecodedAsTheyWere also reuses the encoder and the decoded frame, as
// streams do.
func TestFramesAreDecodedAsTheyWere(t *testing.T) {
	var e Encoder
	var got Frame
	rapid.Check(t, func(t *rapid.T) {
		f := frames.Draw(t, "frame")
		b := e.AppendFrame([]byte("before"), &f)
		if err := DecodeFrame(b[len("before"):], &got); err != nil || !equal(f, got) {
			t.Fatalf("decoded %+v, %v, want %+v", got, err, f)
		}
	})
}

func TestCopyHeadersAreDecodedAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := states.Draw(t, "state")
		want.From, want.To, want.Full = ids.Draw(t, "from"), ids.Draw(t, "to"), rapid.Bool().Draw(t, "full")
		b := AppendCopyHeader(nil, want)
		if got, err := DecodeCopyHeader(b); err != nil || got != want {
			t.Fatalf("decoded %+v, %v, want %+v", got, err, want)
		}
		if _, err := DecodeCopyHeader(b[:len(b)-1]); err == nil {
			t.Fatal("a header that was cut off was accepted")
		}
	})
}

// FuzzDecode: no bytes make a decoder panic, and what it accepts it would write.
func FuzzDecode(f *testing.F) {
	var e Encoder
	for i := range 20 {
		frame := frames.Example(i)
		f.Add(e.AppendFrame(nil, &frame))
	}
	f.Add(AppendCopyHeader(nil, continuity.StateTransfer{From: continuity.ID{Name: "a", Boot: 1}, Full: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := DecodeCopyHeader(b); err == nil {
			if again, err := DecodeCopyHeader(AppendCopyHeader(nil, h)); err != nil || again != h {
				t.Errorf("header %+v became %+v, %v", h, again, err)
			}
		}
		var frame, again Frame
		if DecodeFrame(b, &frame) != nil {
			return
		}
		var e Encoder
		if err := DecodeFrame(e.AppendFrame(nil, &frame), &again); err != nil || !equal(frame, again) {
			t.Errorf("frame %+v became %+v, %v", frame, again, err)
		}
	})
}

// heartbeat is a message of a cluster of three with 4,096 partitions in one term per
// owner, after some changes.
func heartbeat() *Frame {
	f := &Frame{Message: continuity.Message{
		From: continuity.ID{Name: "node-1", Boot: 1 << 60}, To: continuity.ID{Name: "node-2", Boot: 1 << 60}, Epoch: 3,
		Sent: time.Hour, Answered: time.Hour,
		Entries: []continuity.Entry{{Kind: continuity.Ping, Sent: time.Hour, Digest: 1 << 50, Flag: true}},
	}}
	const term = 1767268800<<32 | 0xdeadbeef
	for i := uint32(0); i < 4096; i += 6 {
		f.Message.Beats = append(f.Message.Beats, continuity.Beat{Partition: i, Term: term})
		f.Message.Grants = append(f.Message.Grants, continuity.Grant{
			Partition: i + 3, Term: term, Copy: continuity.Copy{Origin: term, Seq: uint64(i) * 100, Complete: true},
		})
	}
	return f
}

func BenchmarkHeartbeat(b *testing.B) {
	f := heartbeat()
	n := float64(len(f.Message.Beats) + len(f.Message.Grants))
	var e Encoder
	var buf []byte
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = e.AppendFrame(buf[:0], f)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/beat")
		b.ReportMetric(float64(len(buf))/n, "bytes/beat")
	})
	b.Run("decode", func(b *testing.B) {
		buf = e.AppendFrame(buf[:0], f)
		var got Frame
		b.ReportAllocs()
		for b.Loop() {
			if err := DecodeFrame(buf, &got); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/beat")
	})
}

func TestHeartbeatsAreSmall(t *testing.T) {
	f := heartbeat()
	var e Encoder
	b := e.AppendFrame(nil, f)
	if per := float64(len(b)) / float64(len(f.Message.Beats)+len(f.Message.Grants)); per > 4 {
		t.Errorf("a heartbeat of %d beats and %d grants has %d bytes, want at most 4 for each", len(f.Message.Beats), len(f.Message.Grants), len(b))
	}
	var got Frame
	if err := DecodeFrame(b, &got); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(10, func() { b = e.AppendFrame(b[:0], f) }); n != 0 {
		t.Errorf("encoding allocates %v times, want 0", n)
	}
	// The list of members and the names in it.
	if n := testing.AllocsPerRun(10, func() { _ = DecodeFrame(b, &got) }); n > 3 {
		t.Errorf("decoding allocates %v times, want at most 3", n)
	}
}
