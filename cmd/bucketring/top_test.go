// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/pb"
)

func hotKeys() *pb.HotKeysResponse {
	member := func(name string, rate float64) *pb.Asker {
		return &pb.Asker{Name: &pb.Asker_Member{Member: name}, Rate: rate}
	}
	return &pb.HotKeysResponse{
		Keys: []*pb.HotKey{
			{
				Key: "acme/alice", Owner: "n1", Rate: 12_345, RateError: 56, SliceRate: 9000, Slices: 3,
				Limit:   &pb.LimitState{Name: "org-tpm", Dimension: "tokens", Scope: "acme", Remaining: 25_000, Capacity: 100_000},
				Askers:  []*pb.Asker{member("n2", 9000), {Name: &pb.Asker_Client{Client: "10.0.0.7"}, Rate: 3000}, member("n1", 300), member("n3", 30), member("n4", 15)},
				Holders: []*pb.SliceHolder{{Name: &pb.SliceHolder_Member{Member: "n2"}, Slices: 2, Rate: 9000}, {Name: &pb.SliceHolder_Client{Client: "10.0.0.8"}, Slices: 1}},
			},
			{Key: "globex", Owner: "n2", Rate: 1.5, Limit: &pb.LimitState{Name: "requests", Dimension: "requests", Scope: "globex", Remaining: 10, Capacity: 10}, Askers: []*pb.Asker{member("n2", 1.5)}},
			{Key: "initech", Owner: "n2", Rate: 0.5},
		},
		Members:     []*pb.MemberRate{{Member: "n1", Rate: 6000, SliceRate: 9000, Sampling: 2}, {Member: "n2", Rate: 2, Sampling: 1}},
		Unreachable: []string{"n3"},
	}
}

func TestHotKeysTable(t *testing.T) {
	const want = `15,002 calls/s, 9,000 from slices: n1 6,000 (1 of 2 counted), n2 2.0
! n3 did not answer: its keys are missing

RATE/S        SLICES  SHARE  LEFT  KEY         OWNER  ASKED BY [SLICES]                        LIMIT
12,345 +56.0  73%     82.3%  25%   acme/alice  n1     n2 73% [2], 10.0.0.7 24%, n1 3%, 3 more  org-tpm (tokens) of acme: 25,000 of 100,000
1.5           -       0.0%   100%  globex      n2     n2 100%                                  requests of globex: 10 of 10
0.5           -       0.0%   -     initech     n2     -                                        -
`
	var out bytes.Buffer
	(&streams{out: &out}).printHotKeys(hotKeys(), 0)
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	out.Reset()
	(&streams{out: &out}).printHotKeys(&pb.HotKeysResponse{Members: []*pb.MemberRate{{Member: "n1"}}}, 0)
	if got := out.String(); got != "0.0 calls/s: n1 0.0\n\nno calls in the last seconds\n" {
		t.Errorf("table without keys:\n%s", got)
	}
}

// TestNarrowTable: on a terminal of 80 columns no line is longer, and what matters is there.
func TestNarrowTable(t *testing.T) {
	var out bytes.Buffer
	(&streams{out: &out, outTTY: true, width: func() int { return 80 }}).printHotKeys(hotKeys(), 0)
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
			t.Errorf("a line of %d characters, want at most 80: %s", n, line)
		}
	}
	for _, want := range []string{"12,345 +56.0  73%     82.3%  25%   acme/alice  n1     n2 73% [2], 10.0.0.7 24%", "…\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, out.String())
		}
	}
}

// TestTopShowsWhatWaits: limits at which calls wait come first, and keys that do not fit on the
// terminal are left out.
func TestTopShowsWhatWaits(t *testing.T) {
	r := hotKeys()
	r.Members[0].Waiting = &pb.WaitingCalls{Interactive: 2, Batch: 1200}
	r.Members[1].Waiting = &pb.WaitingCalls{Batch: 1}
	r.Waiting = []*pb.WaitingLimit{
		{Scope: "acme", Name: "org-tpm", Dimension: "tokens", Owner: "n1", Calls: &pb.WaitingCalls{Interactive: 2, Batch: 1200}, Longest: durationpb.New(2345 * time.Millisecond)},
		{Scope: "globex", Name: "requests", Dimension: "requests", Model: "m", Owner: "n2", Calls: &pb.WaitingCalls{Batch: 1}, Longest: durationpb.New(90 * time.Second)},
	}
	const want = `15,002 calls/s, 9,000 from slices: n1 6,000 (1 of 2 counted), n2 2.0
! n3 did not answer: its keys are missing

calls that wait: 2 interactive, 1,201 batch
INTERACTIVE  STANDARD  BATCH  LONGEST WAIT  LIMIT                     OWNER
2            0         1,200  2.3s          org-tpm (tokens) of acme  n1
0            0         1      1m30s         requests of globex for m  n2

RATE/S        SLICES  SHARE  LEFT  KEY         OWNER  ASKED BY [SLICES]                        LIMIT
12,345 +56.0  73%     82.3%  25%   acme/alice  n1     n2 73% [2], 10.0.0.7 24%, n1 3%, 3 more  org-tpm (tokens) of acme: 25,000 of 100,000
`
	var out bytes.Buffer
	(&streams{out: &out}).printHotKeys(r, 10)
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// TestHoldersWithoutCalls: a holder of whom no call is known is listed, too.
func TestHoldersWithoutCalls(t *testing.T) {
	k := &pb.HotKey{
		Askers:  []*pb.Asker{{Name: &pb.Asker_Member{Member: "n2"}, Rate: 1}},
		Holders: []*pb.SliceHolder{{Name: &pb.SliceHolder_Client{Client: "10.0.0.7"}, Slices: 3}},
	}
	if got, want := askersText(k), "n2 100%, 10.0.0.7 0% [3]"; got != want {
		t.Errorf("askersText() = %q, want %q", got, want)
	}
}

// TestAskersThatHaveLeft: the parts are of all calls, also of those whose clients have left.
func TestAskersThatHaveLeft(t *testing.T) {
	k := &pb.HotKey{Rate: 10, Askers: []*pb.Asker{{Name: &pb.Asker_Member{Member: "n2"}, Rate: 4}}}
	if got, want := askersText(k), "n2 40%, others 60%"; got != want {
		t.Errorf("askersText() = %q, want %q", got, want)
	}
}

// TestAskersOfAQuietKey: parts are those of rates that a table rounds to nothing.
func TestAskersOfAQuietKey(t *testing.T) {
	askers := []*pb.Asker{{Name: &pb.Asker_Member{Member: "n2"}, Rate: 0.03}, {Name: &pb.Asker_Client{Client: "10.0.0.7"}, Rate: 0.01}}
	var out bytes.Buffer
	(&streams{out: &out}).printHotKeys(&pb.HotKeysResponse{Keys: []*pb.HotKey{{Key: "acme", Owner: "n1", Rate: 0.04, Askers: askers}}}, 0)
	if want := "n2 75%, 10.0.0.7 25%"; !strings.Contains(out.String(), want) {
		t.Errorf("got %s, want %q in it", out.String(), want)
	}
}

// TestLive: a terminal is redrawn, a failure after the first table is shown, and the cursor
// comes back.
func TestLive(t *testing.T) {
	var out bytes.Buffer
	s := &streams{out: &out, outTTY: true, height: func() int { return 10 }}
	ctx, cancel := context.WithCancel(t.Context())
	draws := 0
	err := s.live(ctx, time.Millisecond, func(rows int) error {
		draws++
		if rows != 10 {
			t.Errorf("%d rows, want those of the terminal, 10", rows)
		}
		s.printf("table %d\nand more\n", draws)
		switch draws {
		case 2:
			return errors.New("gone")
		case 3:
			cancel()
		}
		return nil
	})
	const want = hideCursor + cutLongLines +
		cursorHome + clearScreen + "table 1" + clearLine + "\nand more" + clearLine + "\n" + clearScreen +
		cursorHome + "no answer: gone; trying again" + clearLine + "\n" + clearScreen +
		cursorHome + "table 3" + clearLine + "\nand more" + clearLine + "\n" + clearScreen +
		showCursor + wrapLongLines
	if err != nil || out.String() != want {
		t.Errorf("live() = %v\n%q\nwant\n%q", err, out.String(), want)
	}

	out.Reset()
	failed := errors.New("nobody there")
	if err := s.live(t.Context(), time.Millisecond, func(int) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("live() = %v, want the first failure", err)
	}
	if got := out.String(); got != hideCursor+cutLongLines+showCursor+wrapLongLines {
		t.Errorf("live() prints %q, want only the cursor hidden and shown", got)
	}
}
