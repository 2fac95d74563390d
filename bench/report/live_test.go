// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

func second(i int) Interval {
	return Interval{
		At: time.Duration(i) * time.Second, Length: time.Second,
		Counts: Counts{Offered: 20_000, Achieved: 19_000 + int64(i)*100, Denied: 4_000, Failed: int64(i % 2)},
		P50:    400 * time.Microsecond, P99: time.Duration(i+1) * time.Millisecond,
	}
}

func TestLiveOnATerminal(t *testing.T) {
	ansi := regexp.MustCompile("\x1b\\[[0-9;]*m")
	for _, width := range []int{1, 20, 40, 60, 80, 132, 300} {
		var b bytes.Buffer
		l := NewLive(&b, LiveOptions{Terminal: true, Colour: true, Width: func() int { return width }, Total: 30 * time.Second})
		l.Begin("a cluster with a name that is long")
		for i := range 12 {
			l.Update(second(i))
		}
		l.Close()
		l.Close()
		l.Update(second(12))
		out := b.String()
		if strings.Count(out, "\n") != 1 || !strings.HasSuffix(out, "\n") {
			t.Errorf("width %d: %q, want one line at the end", width, out)
		}
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\r\x1b[K")
		for _, line := range lines {
			if n := utf8.RuneCountInString(ansi.ReplaceAllString(line, "")); n > max(width-1, 10) {
				t.Errorf("width %d: a line of %d columns: %q", width, n, line)
			}
		}
		if last := lines[len(lines)-1]; width >= 80 {
			for _, want := range []string{"12 s of 30 s", "20,100/s", "p99 12.0 ms", "failed 1"} {
				if !strings.Contains(last, want) {
					t.Errorf("width %d: %q has no %q", width, last, want)
				}
			}
		}
		if last := lines[len(lines)-1]; width >= 132 && !strings.ContainsAny(last, "▇█") {
			t.Errorf("width %d: %q has no sparkline", width, last)
		}
	}
}

func TestLiveWithoutATerminal(t *testing.T) {
	var b bytes.Buffer
	l := NewLive(&b, LiveOptions{Total: 30 * time.Second})
	l.Begin("node")
	for i := range 12 {
		l.Update(second(i))
	}
	l.Note("kill\x1b[2J node 1")
	l.Close()
	want := `node: 5 s of 30 s: offered 20,000/s, achieved 19,200/s, p99 at most 5.00 ms, denied 20.8 %, failed 2
node: 10 s of 30 s: offered 20,000/s, achieved 19,700/s, p99 at most 10.0 ms, denied 20.3 %, failed 3
kill` + "\uFFFD" + `[2J node 1
node: 12 s of 30 s: offered 20,000/s, achieved 20,050/s, p99 at most 12.0 ms, denied 20 %, failed 1
`
	if got := b.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// What is done before a run leaves nothing behind, and what comes after a turn does
// not wipe out its last line.
func TestLiveKeepsWhatMatters(t *testing.T) {
	var b bytes.Buffer
	l := NewLive(&b, LiveOptions{Terminal: true, Total: 1500 * time.Millisecond})
	l.Step("at 25,000 calls/s")
	l.Step("at 50,000 calls/s")
	l.Begin("null:")
	l.Update(second(0))
	l.Update(second(1))
	l.End()
	l.Note("all nodes have ended")
	l.Close()
	out := b.String()
	if strings.Count(out, "\n") != 2 || !strings.HasSuffix(out, "\nall nodes have ended\n") || !strings.Contains(out, "1.5 s of 1.5 s") {
		t.Errorf("on a terminal: %q, want the last line of the turn, and the note", out)
	}
	if at := strings.LastIndex(out, "calls/s"); strings.Contains(out[:at], "\n") || !strings.HasPrefix(out[at+len("calls/s"):], "\r\x1b[K") {
		t.Errorf("on a terminal: %q, want steps to be wiped out", out)
	}

	b.Reset()
	l = NewLive(&b, LiveOptions{Total: 2 * time.Second})
	l.Step("at 25,000 calls/s")
	l.Begin("null:")
	l.Update(second(0))
	l.End()
	l.Note("all nodes have ended")
	l.Close()
	if got, want := b.String(), "null: 1 s of 2 s: offered 20,000/s, achieved 19,000/s, p99 at most 1.00 ms, denied 21.1 %, failed 0\nall nodes have ended\n"; got != want {
		t.Errorf("elsewhere: %q, want %q", got, want)
	}
}

func TestLiveWithoutColour(t *testing.T) {
	var b bytes.Buffer
	l := NewLive(&b, LiveOptions{Terminal: true})
	l.Begin("node")
	l.Update(second(1))
	l.Note("kill node 1")
	l.Close()
	if out := strings.ReplaceAll(b.String(), "\r\x1b[K", ""); strings.Contains(out, "\x1b") {
		t.Errorf("%q has colours", out)
	}
}

func TestLiveFromManyGoroutines(t *testing.T) {
	var b bytes.Buffer
	l := NewLive(&b, LiveOptions{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			l.Update(second(i))
			l.Note("x")
		})
	}
	wg.Wait()
	l.Close()
	if n := strings.Count(b.String(), "x\n"); n != 8 {
		t.Errorf("%d notes, want 8", n)
	}
}

func TestSparkline(t *testing.T) {
	if got := sparkline([]float64{0, 1, 2, 3, 4, 5, 6, 7}, 8); got != "▁▂▃▄▅▆▇█" {
		t.Errorf("sparkline = %q", got)
	}
	if got := sparkline([]float64{9, 0, 0}, 2); got != "▁▁" {
		t.Errorf("sparkline of zeros = %q", got)
	}
}
