// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseLine(t *testing.T) {
	for _, tt := range []struct {
		line, text string
		level      slog.Level
	}{
		{"[DEBUG] memberlist: Stream connection from=1.2.3.4:5\n", "Stream connection from=1.2.3.4:5", slog.LevelDebug},
		{"[INFO] memberlist: Suspect a~1 has failed", "Suspect a~1 has failed", slog.LevelInfo},
		{"[WARN] memberlist: x", "x", slog.LevelWarn},
		{"[ERR] memberlist: x", "x", slog.LevelWarn},
		{"[ERROR] memberlist: x", "x", slog.LevelWarn},
		{"Err: Could not set the deadline", "Err: Could not set the deadline", slog.LevelWarn},
		{"[WARN] memberlist: Refuting an alive message for 'a' (1.2.3.4:5) meta:([1 2] VS [3 4]), vsn:([] VS [])", "Refuting an alive message for 'a' (1.2.3.4:5)", slog.LevelWarn},
		{"[", "[", slog.LevelWarn},
		{"", "", slog.LevelWarn},
		{strings.Repeat("x", 1000), strings.Repeat("x", maxLineBytes), slog.LevelWarn},
	} {
		if level, text := parseLogLine([]byte(tt.line)); level != tt.level || string(text) != tt.text {
			t.Errorf("parseLogLine(%q) = %s %q, want %s %q", tt.line, level, text, tt.level, tt.text)
		}
	}
}

func TestGossipLogIsSampledAndNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out syncBuffer
		tcpOnly := 0
		g := newGossipLog(slog.New(slog.NewTextHandler(&out, nil)), func() { tcpOnly++ })
		l := log.New(g, "", 0)
		for range 1000 {
			l.Printf("[DEBUG] memberlist: quiet")
			l.Printf("[ERR] memberlist: Failed fallback TCP ping: timeout")
			l.Printf("[ERR] memberlist: discarding packet with unacceptable label %q: from=1.2.3.4:5", "other")
			l.Printf("[WARN] memberlist: ignoring alive message for 'x': %sof another ring", rejectionPrefix)
			l.Printf("[WARN] memberlist: Was able to connect to a over TCP but UDP probes failed")
		}
		for i := range 100 {
			l.Printf("[WARN] memberlist: line %d", i) // the queue is full: the rest is dropped
		}
		time.Sleep(repeatInterval)
		g.flush()
		l.Printf("[ERR] memberlist: Failed fallback TCP ping: timeout")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.run(ctx); err != nil {
			t.Fatal(err)
		}
		for text, want := range map[string]int{"quiet": 0, "Failed fallback": 2, "another ring": 0, "Was able": 1, "unacceptable label": 1, "member of another cluster": 1, "suppressed=999": 1, "line ": lineQueueSize - 3} {
			if got := out.count(text); got != want {
				t.Errorf("%q is in the log %d times, want %d", text, got, want)
			}
		}
		if tcpOnly != 1000 {
			t.Errorf("UDP found blocked %d times, want 1000", tcpOnly)
		}
		for i := range 10 * maxLineKinds {
			l.Printf("[WARN] memberlist: line %d", i)
		}
		if got := len(g.recent); got > maxLineKinds {
			t.Errorf("%d kinds of lines kept, want at most %d", got, maxLineKinds)
		}
	})
}

func ExampleID() {
	id, err := ParseID("00000000000000ff")
	fmt.Println(uint64(id), id, err)
	// Output: 255 00000000000000ff <nil>
}
