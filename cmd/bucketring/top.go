// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/pb"
)

func newTop(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show the keys that the cluster decides for most often",
		Long: `Show the keys with the most checks and reserves per second in the whole cluster,
whatever their outcome. On a terminal the table is refreshed until you press Ctrl-C;
elsewhere one table follows another.

RATE is an average over the last few seconds, and at least what is shown; "+N" means
that it may be up to N higher, because a node has room for the rates of its busiest
keys only. A node that decides more than 8,192 calls per second counts a sample of
them. SLICES is the part that was decided from slices, parts of limits that the owner
lends; these calls count when their slice is returned. SHARE is the part of all calls.
LEFT is what is left of LIMIT, the one with the smallest share left. ASKED BY are the
members that forward calls to the owner, the owner itself where calls come by its own
APIs, and the addresses of clients that follow the ring; "[2]" says how many slices
one holds now, and "others" are clients that have left or are not among the first
eight. What is wider than the terminal is cut.

If calls wait for limits, the five limits at which most do come first, with how many
calls of each class wait there, and for how long the first of them has.`,
		Example: `  bucketring top
  bucketring top --once
  bucketring top --limit 5 --interval 1s --server 127.0.0.1:6481
  bucketring top --once -o json`,
		Args: exactArgs(),
	}
	c := newAPICall(s)
	flags := cmd.Flags()
	once := flags.Bool("once", false, "print one table and exit")
	interval := flags.Duration("interval", 2*time.Second, "time between two tables")
	limit := flags.Int("limit", 20, "maximum number of keys, up to 1000")
	c.connectionFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case *limit < 1 || *limit > 1000:
			return usageError(cmd, fmt.Errorf("--limit: must be from 1 to 1000, got %d", *limit), "")
		case *interval < 100*time.Millisecond:
			return usageError(cmd, fmt.Errorf("--interval: must be at least 100ms, got %s", *interval), "")
		}
		show := func(rows int) error { // 0: of any number
			limit := *limit
			if rows > 0 {
				limit = max(1, min(limit, rows-hotKeysHeader))
			}
			return c.do(cmd, http.MethodGet, "/v1/hotkeys?limit="+strconv.Itoa(limit), nil, func(node *remoteService, _ *responseRecorder) {
				s.printHotKeys(node.hotKeys, rows)
			})
		}
		if *once {
			return show(0)
		}
		ctx, stop := onSignals(cmd.Context(), func() {})
		defer stop()
		if !s.outTTY || *c.output == formatJSON {
			return repeat(ctx, *interval, func() error { return show(0) })
		}
		return s.live(ctx, *interval, show)
	}
	return cmd
}

// repeat calls show until it fails or ctx is done.
func repeat(ctx context.Context, interval time.Duration, show func() error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil { // a tick may have come at the same time
		if err := show(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return nil
}

// Control sequences of terminals.
const (
	cursorHome    = "\x1b[H"
	clearLine     = "\x1b[K" // from the cursor on
	clearScreen   = "\x1b[J" // from the cursor on
	hideCursor    = "\x1b[?25l"
	showCursor    = "\x1b[?25h"
	cutLongLines  = "\x1b[?7l"
	wrapLongLines = "\x1b[?7h"
)

const (
	defaultRows   = 24 // of a terminal that does not tell, or has fewer than leastRows
	leastRows     = 5
	hotKeysHeader = 4 // lines around the rows of keys
)

// live shows on the whole terminal what show prints, and again after each interval, until
// ctx is done. The first failure ends it; later ones are shown.
func (s *streams) live(ctx context.Context, interval time.Duration, show func(rows int) error) error {
	s.printf("%s%s", hideCursor, cutLongLines)
	defer s.printf("%s%s", showCursor, wrapLongLines)
	first := true
	return repeat(ctx, interval, func() error {
		rows := s.height()
		if rows < leastRows {
			rows = defaultRows
		}
		out := s.out
		var screen bytes.Buffer
		s.out = &screen
		err := show(rows)
		s.out = out
		switch {
		case err != nil && first:
			return err
		case err != nil:
			screen.Reset()
			fmt.Fprintf(&screen, "no answer: %v; trying again\n", err)
		}
		lines := strings.ReplaceAll(screen.String(), "\n", clearLine+"\n")
		if first {
			lines = clearScreen + lines
		}
		first = false
		s.printf("%s%s%s", cursorHome, lines, clearScreen)
		return nil
	})
}

// printHotKeys prints the keys with the highest rates, and what waits for limits. If rows is not
// 0, there is room for so many lines: keys that do not fit are left out.
func (s *streams) printHotKeys(r *pb.HotKeysResponse, rows int) {
	all := httpapi.HotKeysOf(r)
	if used := waitingRows(all.Waiting); rows > 0 && used > 0 {
		all.Keys = all.Keys[:min(len(all.Keys), max(1, rows-hotKeysHeader-used))]
	}
	s.printf("%s calls/s", formatRate(all.Rate))
	if all.SliceRate > 0 {
		s.printf(", %s from slices", formatRate(all.SliceRate))
	}
	separator := ":"
	for _, m := range all.Members {
		s.printf("%s %s %s", separator, m.Member, formatRate(m.Rate))
		separator = ","
		if m.Sampling > 1 {
			s.printf(" (1 of %d counted)", m.Sampling)
		}
	}
	s.printf("\n")
	for _, name := range all.Unreachable {
		s.printf("%s %s did not answer: its keys are missing\n", s.colorize(yellow, "!"), name)
	}
	s.printf("\n")
	s.printCut(func() {
		if s.printWaiting(all.Waiting) {
			s.printf("\n")
		}
		if len(all.Keys) > 0 {
			s.hotKeysTable(r, &all)
		}
	})
	if len(all.Keys) == 0 {
		s.printf("no calls in the last seconds\n")
	}
}

// printCut prints what show prints, with lines that are cut at the width of the terminal.
func (s *streams) printCut(show func()) {
	out := s.out
	var text bytes.Buffer
	s.out = &text
	show()
	s.out = out
	width := 0
	if s.outTTY && s.width != nil {
		width = s.width()
	}
	for line := range strings.Lines(text.String()) {
		s.printf("%s\n", cutLine(strings.TrimSuffix(line, "\n"), width))
	}
}

// hotKeysTable prints a row for each key. What matters most is in the first columns, because
// the lines are cut at the width of the terminal.
func (s *streams) hotKeysTable(r *pb.HotKeysResponse, all *httpapi.HotKeys) {
	row, flush := s.columns("RATE/S", "SLICES", "SHARE", "LEFT", "KEY", "OWNER", "ASKED BY [SLICES]", "LIMIT")
	defer flush()
	for i := range all.Keys {
		k := &all.Keys[i]
		rate, slices, left, limit := formatRate(k.Rate), "-", "-", "-"
		if k.RateError >= 0.1 {
			rate += " +" + formatRate(k.RateError)
		}
		if k.SliceRate > 0 {
			slices = percent(k.SliceRate, k.Rate)
		}
		if l := r.GetKeys()[i].GetLimit(); l != nil {
			left = percent(float64(l.GetRemaining()), float64(l.GetCapacity()))
			limit = limitText(l) + ": " + formatAmount(l, l.GetRemaining()) + " of " + formatAmount(l, l.GetCapacity())
		}
		row(rate, slices, fmt.Sprintf("%.1f%%", k.Share*100), left, k.Key, k.Owner, askersText(r.GetKeys()[i]), limit)
	}
}

// cutLine shortens a line to a number of characters; 0: it does not.
func cutLine(line string, width int) string {
	if text := []rune(line); width > 0 && len(text) > width {
		return string(text[:width-1]) + "…"
	}
	return line
}

// percent returns a part of a whole, "-" if that is nothing.
func percent(part, whole float64) string {
	if whole <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", min(1, part/whole)*100)
}

// limitText names a limit, and its level and dimension where the name does not say them.
func limitText(l *pb.LimitState) string {
	name := l.GetName()
	if name != l.GetDimension() {
		name += " (" + l.GetDimension() + ")"
	}
	return name + " of " + l.GetScope()
}

// maxAskersShown is how many askers a row has.
const maxAskersShown = 3

// askersText lists who asks for a key, with their parts, of rates that are not rounded, and
// with the slices that they hold. Holders of whom no call is known come last.
func askersText(k *pb.HotKey) string {
	type named interface {
		GetMember() string
		GetClient() string
	}
	nameOf := func(n named) string { return n.GetMember() + n.GetClient() }
	slices := map[string]int32{}
	for _, h := range k.GetHolders() {
		slices[nameOf(h)] = h.GetSlices()
	}
	rates := make([]float64, len(k.GetAskers())+1)
	others := k.GetRate() // what those ask who are not listed
	for i, a := range k.GetAskers() {
		rates[i] = a.GetRate()
		others -= rates[i]
	}
	rates[len(rates)-1] = max(others, 0)
	shares := amount.Shares(100, rates)
	var parts []string
	add := func(name string, share int64) {
		text := fmt.Sprintf("%s %d%%", name, share)
		if n := slices[name]; n > 0 {
			text += fmt.Sprintf(" [%d]", n)
			delete(slices, name)
		}
		parts = append(parts, text)
	}
	for i, a := range k.GetAskers() {
		add(nameOf(a), shares[i])
	}
	for _, h := range k.GetHolders() {
		if slices[nameOf(h)] > 0 {
			add(nameOf(h), 0)
		}
	}
	if len(parts) == 0 {
		return "-"
	}
	if more := len(parts) - maxAskersShown; more > 0 {
		parts = append(parts[:maxAskersShown], fmt.Sprintf("%d more", more))
	}
	if share := shares[len(shares)-1]; share > 0 && len(parts) > 0 {
		parts = append(parts, fmt.Sprintf("others %d%%", share))
	}
	return strings.Join(parts, ", ")
}

// formatRate formats a rate: with a decimal if it is small.
func formatRate(rate float64) string {
	if rate < 100 {
		return fmt.Sprintf("%.1f", rate)
	}
	return amount.Group(int64(rate + 0.5))
}
