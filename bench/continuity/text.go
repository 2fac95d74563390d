// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

// WriteJSON writes the document, indented.
func (d *Document) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(d)
}

// WriteText writes a table for people: for each campaign, what was promised and measured.
func (d *Document) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := range d.Campaigns {
		r := &d.Campaigns[i]
		verdict := "all promises kept"
		if !r.OK {
			verdict = "PROMISES BROKEN"
		}
		if i > 0 {
			fmt.Fprintln(t)
		}
		fmt.Fprintf(t, "%s, %s, %s requests: %s\n", r.Name, times(len(r.Iterations)), amount.Group(r.Requests), verdict)
		fmt.Fprintf(t, "  \tPROMISED\tMEASURED\t\n")
		for _, c := range r.Checks {
			promised, mark := c.Promised, ""
			if promised == "" {
				promised = "-"
			}
			if c.Broken {
				mark = "BROKEN"
			}
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", c.What, promised, c.Measured, mark)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return t.Flush()
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return amount.Group(int64(n)) + " times"
}

// String returns one line about an iteration.
func (it *Iteration) String() string {
	var parts []string
	add := func(what string, a Amounts) {
		if !a.zero() {
			parts = append(parts, what+" "+a.String())
		}
	}
	add("over", it.Over)
	add("fallback beyond", it.BeyondFallback)
	add("twice", it.Twice)
	add("lost", it.Lost)
	if len(it.Broken) > 0 {
		parts = append(parts, "first of all "+it.Broken[0].Name+" of "+it.Broken[0].Scope)
	}
	if it.Unknown > 0 {
		parts = append(parts, amount.Group(it.Unknown)+" unknown reservations")
	}
	if it.Failed > 0 {
		parts = append(parts, amount.Group(it.Failed)+" failed")
	}
	if it.Problem != "" {
		parts = append(parts, it.Problem)
	}
	if len(parts) == 0 {
		parts = append(parts, "nothing lost")
	}
	return fmt.Sprintf("%s, %s: %s", strings.Join(it.Victims, " "), (it.End - it.Begin).Round(10*time.Millisecond), strings.Join(parts, "; "))
}
