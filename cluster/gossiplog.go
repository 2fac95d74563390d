// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"log/slog"
	"time"
)

// gossipLog turns the lines of memberlist's logger into records of ours. It
// drops what is below the level of the log, repetitions within repeatAfter, and
// what this package reports itself. Writing never waits: memberlist logs under
// its locks, and the reader of our log may be slow.
type gossipLog struct {
	log     *slog.Logger
	tcpOnly func() // a peer answers over TCP but not over UDP

	lines chan line // lost if full; nobody closes it

	// log.Logger writes one line at a time, so these need no lock.
	recent map[string]repetition // by beginning; at most maxRecent
}

type line struct {
	level      slog.Level
	text       string
	suppressed int // lines like it since the last one
}

type repetition struct {
	last       time.Time
	suppressed int
}

const (
	repeatAfter = 10 * time.Second
	maxRecent   = 128
	maxLine     = 256 // bytes of a line that are kept
	queuedLines = 64
)

func newGossipLog(log *slog.Logger, tcpOnly func()) *gossipLog {
	return &gossipLog{log: log, tcpOnly: tcpOnly, lines: make(chan line, queuedLines), recent: map[string]repetition{}}
}

// Write implements [io.Writer]. It takes one line.
func (g *gossipLog) Write(p []byte) (int, error) {
	level, text := parseLine(p)
	if bytes.HasPrefix(text, []byte("Was able to connect to ")) {
		g.tcpOnly()
	}
	if !g.log.Enabled(context.Background(), level) || bytes.Contains(text, []byte(refusal)) {
		return len(p), nil
	}
	if suppressed, ok := g.sample(beginning(text), time.Now()); ok {
		select {
		case g.lines <- line{level, string(text), suppressed}:
		default:
		}
	}
	return len(p), nil
}

// sample reports whether a line like it is due, and how many were not.
func (g *gossipLog) sample(key []byte, now time.Time) (suppressed int, ok bool) {
	r, seen := g.recent[string(key)]
	if seen && now.Sub(r.last) < repeatAfter {
		r.suppressed++
		g.recent[string(key)] = r
		return 0, false
	}
	if !seen && len(g.recent) >= maxRecent {
		clear(g.recent)
	}
	g.recent[string(key)] = repetition{last: now}
	return r.suppressed, true
}

// run passes lines on until ctx is done, and then those that are waiting.
func (g *gossipLog) run(ctx context.Context) error {
	for {
		select {
		case l := <-g.lines:
			g.pass(l)
		case <-ctx.Done():
			g.flush()
			return nil
		}
	}
}

func (g *gossipLog) flush() {
	for {
		select {
		case l := <-g.lines:
			g.pass(l)
		default:
			return
		}
	}
}

func (g *gossipLog) pass(l line) {
	attrs := []slog.Attr{slog.String("text", l.text)}
	if l.suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", l.suppressed))
	}
	g.log.LogAttrs(context.Background(), l.level, "memberlist", attrs...)
}

// parseLine takes "[LEVEL] memberlist: text" apart. What memberlist calls an
// error, a probe that failed for instance, is a warning here: the member goes
// on. Dumps of metadata are cut off.
func parseLine(p []byte) (slog.Level, []byte) {
	level := slog.LevelWarn
	text := bytes.TrimSpace(p)
	if len(text) > 0 && text[0] == '[' {
		if end := bytes.IndexByte(text, ']'); end > 0 {
			switch string(text[1:end]) {
			case "DEBUG":
				level = slog.LevelDebug
			case "INFO":
				level = slog.LevelInfo
			}
			text = bytes.TrimLeft(text[end+1:], " ")
		}
	}
	text = bytes.TrimPrefix(text, []byte("memberlist: "))
	if i := bytes.Index(text, []byte(" meta:(")); i >= 0 {
		text = text[:i]
	}
	return level, text[:min(len(text), maxLine)]
}

// beginning is what lines of one kind have in common.
func beginning(text []byte) []byte {
	if i := bytes.IndexAny(text, ":='\""); i >= 0 {
		text = text[:i]
	}
	return text[:min(len(text), 40)]
}
