// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind is what a fault does, by the name of its flag.
type Kind string

// The kinds of faults.
const (
	Kill    Kind = "kill"    // as a crash: it says and saves nothing
	Pause   Kind = "pause"   // it stands still, and then goes on
	Leave   Kind = "leave"   // it is asked to end, and gives its keys to the others
	Join    Kind = "join"    // one more is started, or one that is down
	Restart Kind = "restart" // one after the other leaves and is started again

	// Crash is of marks only: a node ended, and no fault asked it to.
	Crash Kind = "crash"
)

// rolling is how all nodes are named where a number would name one.
const rolling = "rolling"

// forms say how a fault of each kind is written.
var forms = map[Kind]string{
	Kill:    "NODE@TIME such as 2@10s",
	Pause:   "NODE@TIME+TIME such as 1@5s+3s",
	Leave:   "NODE@TIME such as 3@20s",
	Join:    "@TIME such as @30s, or NODE@TIME for one that is down",
	Restart: "rolling@TIME such as rolling@15s, or rolling@TIME/TIME such as rolling@15s/5s",
}

// Fault is something that happens to a node during a run.
type Fault struct {
	Kind Kind
	Node int           // from 1; 0 for the next one that joins, and of Restart: all
	At   time.Duration // since the start of the run
	For  time.Duration // of Pause
	Wait time.Duration // of Restart: between one that is ready again and the next
}

// ParseFault reads the value of a flag, such as 2@10s for --kill.
func ParseFault(kind Kind, text string) (Fault, error) {
	form, ok := forms[kind]
	if !ok {
		return Fault{}, fmt.Errorf("no fault is called %q", kind)
	}
	f, err := parseFault(kind, text)
	if err != nil {
		return Fault{}, fmt.Errorf("%s: must be %s, got %q: %w", kind, form, text, err)
	}
	return f, nil
}

func parseFault(kind Kind, text string) (f Fault, err error) {
	f.Kind = kind
	node, at, ok := strings.Cut(text, "@")
	if !ok {
		return f, errors.New("there is no @")
	}
	switch {
	case kind == Restart && node == rolling, kind == Join && node == "":
	case kind == Restart:
		return f, fmt.Errorf("%q is not %s", node, rolling)
	default:
		n, err := strconv.ParseUint(node, 10, 16)
		if err != nil || n == 0 {
			return f, fmt.Errorf("%q is not the number of a node", node)
		}
		f.Node = int(n)
	}
	switch kind {
	case Pause:
		var length string
		if at, length, ok = strings.Cut(at, "+"); !ok {
			return f, errors.New("for how long is missing")
		}
		if f.For, err = parseTime(length); err != nil {
			return f, err
		}
		if f.For == 0 {
			return f, errors.New("a pause must not be 0s")
		}
	case Restart:
		var wait string
		if at, wait, ok = strings.Cut(at, "/"); ok {
			if f.Wait, err = parseTime(wait); err != nil {
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
		return 0, fmt.Errorf("%q is not a time such as 10s or 1m30s", text)
	}
	return d, nil
}

// String returns the flag: --kill 2@10s.
func (f Fault) String() string {
	node := ""
	switch {
	case f.Kind == Restart:
		node = rolling
	case f.Node != 0:
		node = strconv.Itoa(f.Node)
	}
	text := fmt.Sprintf("--%s %s@%s", f.Kind, node, brief(f.At))
	switch {
	case f.Kind == Pause:
		text += "+" + brief(f.For)
	case f.Wait != 0:
		text += "/" + brief(f.Wait)
	}
	return text
}

// brief is a duration as people write it: 1m30s, and 2m for 2m0s.
func brief(d time.Duration) string {
	s := d.String()
	if short, ok := strings.CutSuffix(s, "m0s"); ok {
		s = short + "m"
	}
	if short, ok := strings.CutSuffix(s, "h0m"); ok {
		s = short + "h"
	}
	return s
}
