// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// FaultKind is what a fault does. Its text is the name of the flag.
type FaultKind string

// The kinds of faults.
const (
	Kill    FaultKind = "kill"    // ends the process without any shutdown, like a crash
	Pause   FaultKind = "pause"   // suspends the process for a time
	Leave   FaultKind = "leave"   // stops the node gracefully; it hands its keys off
	Join    FaultKind = "join"    // starts a new node, or one that is down
	Restart FaultKind = "restart" // rolling restart: nodes leave and start one after the other
	Busy    FaultKind = "busy"    // starts processes that use the processors beside the nodes for a time

	// Crash is only the kind of a [Mark]: a node ended without being told to.
	Crash FaultKind = "crash"
)

// rolling stands for all nodes in the text of a Restart.
const rolling = "rolling"

// faultSyntax is the syntax of each kind.
var faultSyntax = map[FaultKind]string{
	Kill:    "NODE@TIME such as 2@10s",
	Pause:   "NODE@TIME+TIME such as 1@5s+3s, or NODE@TIME+TIME/TIME such as 1@5s+300ms/1s for one each second",
	Leave:   "NODE@TIME such as 3@20s",
	Join:    "@TIME such as @30s, or NODE@TIME for one that is down",
	Busy:    "PROCESSES@TIME+TIME such as 8@10s+60s",
	Restart: "rolling@TIME such as rolling@15s, or rolling@TIME/TIME such as rolling@15s/5s",
}

// Fault is something that happens to a node, or to the machine, during a run.
type Fault struct {
	Kind      FaultKind
	Node      int           // from 1; 0 means a new node for Join, and all nodes for Restart and Busy
	Processes int           // of a Busy
	At        time.Duration // since the start of the run
	Duration  time.Duration // of a Pause or a Busy
	// Interval is, of a Restart, the time between one node being ready and the next restart.
	// If it is not 0, a Pause begins again each Interval until the end of the run.
	Interval time.Duration
}

// maxProcesses is the maximum number of processes of a Busy.
const maxProcesses = 256

// ParseFault parses the value of a flag, such as 2@10s for --kill.
func ParseFault(kind FaultKind, text string) (Fault, error) {
	form, ok := faultSyntax[kind]
	if !ok {
		return Fault{}, fmt.Errorf("unknown kind of fault %q", kind)
	}
	f, err := parseFault(kind, text)
	if err != nil {
		return Fault{}, fmt.Errorf("%s: must be %s, got %q: %w", kind, form, text, err)
	}
	return f, nil
}

func parseFault(kind FaultKind, text string) (f Fault, err error) {
	f.Kind = kind
	node, at, ok := strings.Cut(text, "@")
	if !ok {
		return f, errors.New("@ is missing")
	}
	switch {
	case kind == Restart && node == rolling, kind == Join && node == "":
	case kind == Busy:
		n, err := strconv.ParseUint(node, 10, 16)
		if err != nil || n == 0 || n > maxProcesses {
			return f, fmt.Errorf("%q is not a number of processes from 1 to %d", node, maxProcesses)
		}
		f.Processes = int(n)
	case kind == Restart:
		return f, fmt.Errorf("must begin with %s, got %q", rolling, node)
	default:
		n, err := strconv.ParseUint(node, 10, 16)
		if err != nil || n == 0 {
			return f, fmt.Errorf("%q is not a node number", node)
		}
		f.Node = int(n)
	}
	switch kind {
	case Pause, Busy:
		var length string
		if at, length, ok = strings.Cut(at, "+"); !ok {
			return f, errors.New("the time that it lasts is missing")
		}
		if before, every, repeats := strings.Cut(length, "/"); repeats && kind == Pause {
			if f.Interval, err = parseTime(every); err != nil {
				return f, err
			}
			length = before
		}
		if f.Duration, err = parseTime(length); err != nil {
			return f, err
		}
		if f.Duration == 0 {
			return f, errors.New("the time that it lasts must not be 0s")
		}
		if f.Interval != 0 && f.Interval <= f.Duration {
			return f, errors.New("the interval must be longer than the pause")
		}
	case Restart:
		var wait string
		if at, wait, ok = strings.Cut(at, "/"); ok {
			if f.Interval, err = parseTime(wait); err != nil {
				return f, err
			}
		}
	}
	f.At, err = parseTime(at)
	return f, err
}

func parseTime(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || strings.HasPrefix(text, "+") || strings.HasPrefix(text, "-") {
		return 0, fmt.Errorf("%q is not a duration such as 10s or 1m30s", text)
	}
	return d, nil
}

// String returns the fault as a flag, such as --kill 2@10s.
func (f Fault) String() string {
	node := ""
	switch {
	case f.Kind == Restart:
		node = rolling
	case f.Kind == Busy:
		node = strconv.Itoa(f.Processes)
	case f.Node != 0:
		node = strconv.Itoa(f.Node)
	}
	text := fmt.Sprintf("--%s %s@%s", f.Kind, node, formatDuration(f.At))
	if f.Duration != 0 {
		text += "+" + formatDuration(f.Duration)
	}
	if f.Interval != 0 {
		text += "/" + formatDuration(f.Interval)
	}
	return text
}

// formatDuration shortens 2m0s to 2m.
func formatDuration(d time.Duration) string {
	s := d.String()
	if short, ok := strings.CutSuffix(s, "m0s"); ok {
		s = short + "m"
	}
	if short, ok := strings.CutSuffix(s, "h0m"); ok {
		s = short + "h"
	}
	return s
}
