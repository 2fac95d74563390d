// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// benchChanged is the changed keys or reservations per message.
const benchChanged = 256

// BenchmarkChanges measures what replication costs for each changed key of four limits,
// and for each reserve and each settle of such a key: the message, and its application.
// Every key has a root of its own in one partition.
func BenchmarkChanges(b *testing.B) {
	var keys []string
	for i := 0; len(keys) < benchChanged; i++ {
		if key := fmt.Sprintf("user-%08x", i); limiter.PartitionOf(key) == 0 {
			keys = append(keys, key)
		}
	}
	owner, heir := limiter.New(limiter.Options{}), limiter.New(limiter.Options{})
	owner.Track(0, true)
	heir.Close(0)
	r := &limiter.Request{Plan: benchPlan(b, owner, len(keys[0])), Requests: 1, InputTokens: 900, OutputTokens: 100}
	var d limiter.Decision
	now, next := benchStart, 0
	step := func() { now.Mono, now.Wall = now.Mono+int64(20*time.Millisecond), now.Wall+int64(20*time.Millisecond) }
	check := func() {
		for _, r.Key = range keys {
			_ = owner.Check(now, r, &d)
		}
	}
	ids := make([]string, benchChanged)
	reserve := func() {
		for i := range ids {
			next++
			r.Key, r.ID = keys[i], fmt.Sprintf("%032x", next)
			ids[i] = r.ID
			if err := owner.Reserve(now, r, &d); err != nil || d.Outcome != limiter.Allowed {
				b.Fatal(d.Outcome, err)
			}
		}
		r.ID = ""
	}
	settle := func() {
		for i := range ids {
			if err := owner.Settle(now, &limiter.Usage{Key: keys[i], ID: ids[i], InputTokens: 900, OutputTokens: 60, Final: true}, &d); err != nil {
				b.Fatal(err)
			}
		}
	}
	var w limiter.StateWriter
	message := func() []byte {
		w.Reset()
		if _, ok := owner.AppendChanges(now, 0, heir.Seq(0), &w); !ok {
			b.Fatal("the list of changes is too short")
		}
		return w.Message()
	}
	apply := func(data []byte) {
		in, err := heir.ReadChanges(data, nil)
		if err != nil {
			b.Fatal(err)
		}
		for in.Next() {
			if err := heir.Apply(now, in); err != nil {
				b.Fatal(err)
			}
		}
		owner.ForgetChanges(0, heir.Seq(0))
	}
	for _, row := range []struct {
		name           string
		before, change func()
	}{
		{"check", func() {}, check},
		{"reserve", func() {}, reserve},
		{"settle", reserve, settle},
	} {
		for _, what := range []string{"append", "apply"} {
			b.Run(row.name+"/"+what, func(b *testing.B) {
				b.ReportAllocs()
				bytes := 0
				for b.Loop() {
					b.StopTimer()
					step()
					row.before()
					apply(message())
					row.change()
					if what == "append" {
						b.StartTimer()
					}
					data := message()
					bytes = len(data)
					if what == "apply" {
						b.StartTimer()
					}
					if what == "append" {
						b.StopTimer()
					}
					apply(data)
					b.StopTimer()
					if row.name == "reserve" {
						settle()
					}
					b.StartTimer()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchChanged, "ns/changed")
				b.ReportMetric(float64(bytes)/benchChanged, "B/changed")
			})
		}
	}
}

// BenchmarkOpenReservations measures a reserve and a settle of a key of four limits that has
// other open reservations, and the copy of both for the heir. A changed record is copied as a
// whole, with what each open reservation needs to be settled exactly.
func BenchmarkOpenReservations(b *testing.B) {
	for _, open := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint(open), func(b *testing.B) {
			owner, heir := limiter.New(limiter.Options{}), limiter.New(limiter.Options{})
			const key = "user"
			part := limiter.PartitionOf(key)
			owner.Track(part, true)
			heir.Close(part)
			r := &limiter.Request{Key: key, Plan: benchPlan(b, owner, len(key)), Requests: 1, InputTokens: 900, OutputTokens: 100}
			var d limiter.Decision
			now, next, size := benchStart, 0, 0
			reserve := func() {
				next++
				r.ID = fmt.Sprintf("%032x", next)
				if err := owner.Reserve(now, r, &d); err != nil || d.Outcome != limiter.Allowed {
					b.Fatal(d.Outcome, err)
				}
			}
			settleOldest := func() {
				id := fmt.Sprintf("%032x", next-open)
				if err := owner.Settle(now, &limiter.Usage{Key: key, ID: id, InputTokens: 900, OutputTokens: 60, Final: true}, &d); err != nil {
					b.Fatal(err)
				}
			}
			var w limiter.StateWriter
			replicate := func() {
				w.Reset()
				if _, ok := owner.AppendChanges(now, part, heir.Seq(part), &w); !ok {
					b.Fatal("the list of changes is too short")
				}
				size = len(w.Message())
				in, err := heir.ReadChanges(w.Message(), nil)
				if err != nil {
					b.Fatal(err)
				}
				for in.Next() {
					if err := heir.Apply(now, in); err != nil {
						b.Fatal(err)
					}
				}
				owner.ForgetChanges(part, heir.Seq(part))
			}
			for range open {
				reserve()
			}
			replicate()
			b.ReportAllocs()
			for b.Loop() {
				now.Mono, now.Wall = now.Mono+int64(time.Millisecond), now.Wall+int64(time.Millisecond)
				reserve()
				replicate()
				settleOldest()
				replicate()
			}
			b.ReportMetric(float64(size), "B/message")
		})
	}
}

// BenchmarkManyChanges measures what one root with very many changed keys of four limits
// costs: the longest time for which the message of its changes holds the lock of the
// partition, and the reading and applying of a complete copy.
func BenchmarkManyChanges(b *testing.B) {
	for _, keys := range []int{1_000, 65_000} {
		owner, heir := limiter.New(limiter.Options{}), limiter.New(limiter.Options{})
		part := limiter.PartitionOf("root")
		owner.Track(part, true)
		heir.Close(part)
		var names []string
		for i := range keys {
			names = append(names, fmt.Sprintf("root/%06d", i))
		}
		r := &limiter.Request{Plan: benchPlan(b, owner, len(names[0])), Requests: 1, InputTokens: 900, OutputTokens: 100}
		var d limiter.Decision
		now := benchStart
		change := func() {
			now.Mono, now.Wall = now.Mono+int64(time.Minute), now.Wall+int64(time.Minute)
			for _, r.Key = range names {
				_ = owner.Check(now, r, &d)
			}
		}
		b.Run(fmt.Sprintf("keys=%d/append", keys), func(b *testing.B) {
			var w limiter.StateWriter
			var longest time.Duration
			after := owner.Seq(part)
			for b.Loop() {
				b.StopTimer()
				change()
				w.Reset()
				b.StartTimer()
				began := time.Now()
				through, ok := owner.AppendChanges(now, part, after, &w)
				longest = max(longest, time.Since(began))
				if !ok {
					b.Fatal("the list of changes is too short")
				}
				owner.ForgetChanges(part, through)
				after = through
			}
			b.ReportMetric(float64(longest.Microseconds()), "longest-us")
		})
		b.Run(fmt.Sprintf("keys=%d/copy", keys), func(b *testing.B) {
			change()
			data, _ := owner.SnapshotAt(now, part, nil)
			var reading, longest time.Duration
			for b.Loop() {
				began := time.Now()
				c, err := heir.ReadFull(now, part, data, nil)
				read := time.Now()
				if err == nil {
					err = c.Apply(now)
				}
				if err != nil {
					b.Fatal(err)
				}
				reading += read.Sub(began)
				longest = max(longest, time.Since(read))
			}
			b.ReportMetric(float64(reading.Nanoseconds())/float64(b.N)/float64(keys), "ns/key")
			b.ReportMetric(float64(longest.Microseconds()), "longest-apply-us")
		})
	}
}
