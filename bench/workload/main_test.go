// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"iter"
	"testing"

	"go.uber.org/goleak"

	"github.com/bucketring/bucketring/bench"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustNew(tb testing.TB, text string) *Workload {
	tb.Helper()
	s, err := Parse(text)
	if err != nil {
		tb.Fatal(err)
	}
	w, err := New(s)
	if err != nil {
		tb.Fatal(err)
	}
	return w
}

// plan returns at most n calls.
func plan(w *Workload, n int) []bench.Call {
	var calls []bench.Call
	var c bench.Call
	for len(calls) < n && w.Next(&c) {
		calls = append(calls, c)
	}
	return calls
}

// upTo iterates over the next n calls, which must not be kept.
func upTo(w *Workload, n int) iter.Seq[*bench.Call] {
	return func(yield func(*bench.Call) bool) {
		var c bench.Call
		for range n {
			if !w.Next(&c) || !yield(&c) {
				return
			}
		}
	}
}
