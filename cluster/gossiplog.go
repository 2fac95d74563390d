// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"time"
)

// gossipLog forwards the lines of memberlist's logger to a slog.Logger. It drops
// lines below the log level, repetitions within repeatInterval, and lines that
// duplicate a report of this package. Write never blocks, because memberlist logs
// while it holds its locks.
type gossipLog struct {
	log     *slog.Logger
	tcpOnly func() // a peer answers over TCP but not over UDP

	lines chan line // lines are dropped if it is full; never closed

	// recent needs no lock, because log.Logger writes one line at a time.
	recent map[string]repetition // by lineKind; at most maxLineKinds
}

type line struct {
	level      slog.Level
	text       string
	suppressed int // lines of the same kind since the last one
}

type repetition struct {
	last       time.Time
	suppressed int
}

const (
	repeatInterval = 10 * time.Second
	maxLineKinds   = 128
	maxLineBytes   = 256 // longer lines are cut
	lineQueueSize  = 64
)

func newGossipLog(log *slog.Logger, tcpOnly func()) *gossipLog {
	return &gossipLog{log: log, tcpOnly: tcpOnly, lines: make(chan line, lineQueueSize), recent: map[string]repetition{}}
}

// Write implements [io.Writer]. It takes one line.
func (g *gossipLog) Write(p []byte) (int, error) {
	level, text := parseLogLine(p)
	if bytes.HasPrefix(text, []byte("Was able to connect to ")) {
		g.tcpOnly()
	}
	if !g.log.Enabled(context.Background(), level) || bytes.Contains(text, []byte(rejectionPrefix)) {
		return len(p), nil
	}
	if suppressed, ok := g.sample(lineKind(text), time.Now()); ok {
		select {
		case g.lines <- line{level, string(text), suppressed}:
		default:
		}
	}
	return len(p), nil
}

// sample reports whether to log a line of this kind, and how many lines of the
// kind were suppressed since the last one.
func (g *gossipLog) sample(key []byte, now time.Time) (suppressed int, ok bool) {
	r, seen := g.recent[string(key)]
	if seen && now.Sub(r.last) < repeatInterval {
		r.suppressed++
		g.recent[string(key)] = r
		return 0, false
	}
	if !seen && len(g.recent) >= maxLineKinds {
		clear(g.recent)
	}
	g.recent[string(key)] = repetition{last: now}
	return r.suppressed, true
}

// run logs lines until ctx is done, and then flushes.
func (g *gossipLog) run(ctx context.Context) error {
	for {
		select {
		case l := <-g.lines:
			g.emit(l)
		case <-ctx.Done():
			g.flush()
			return nil
		}
	}
}

// flush logs the queued lines.
func (g *gossipLog) flush() {
	for {
		select {
		case l := <-g.lines:
			g.emit(l)
		default:
			return
		}
	}
}

func (g *gossipLog) emit(l line) {
	attrs := []slog.Attr{slog.String("text", l.text)}
	if strings.Contains(l.text, "unacceptable label") && !strings.Contains(l.text, `label ""`) {
		attrs = append(attrs, slog.String("hint", "a program that is not of this cluster sent it, such as a member of another cluster that has this address in its --join; it was not read"))
	}
	if l.suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", l.suppressed))
	}
	g.log.LogAttrs(context.Background(), l.level, "memberlist", attrs...)
}

// parseLogLine splits "[LEVEL] memberlist: text". Errors of memberlist, such as a
// failed probe, become warnings, because the node goes on. Dumps of metadata are
// removed.
func parseLogLine(p []byte) (slog.Level, []byte) {
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
	return level, text[:min(len(text), maxLineBytes)]
}

// lineKind returns the beginning of a line, which is the same for lines of one
// kind.
func lineKind(text []byte) []byte {
	if i := bytes.IndexAny(text, ":='\""); i >= 0 {
		text = text[:i]
	}
	return text[:min(len(text), 40)]
}
