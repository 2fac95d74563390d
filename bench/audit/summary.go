// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

// Summary returns the findings as text for people, on several lines.
func (r *Report) Summary() string {
	var b strings.Builder
	r.write(&b)
	return b.String()
}

// maxListed is how many findings of each kind a summary lists.
const maxListed = 5

func (r *Report) write(w io.Writer) {
	if r.Events == 0 {
		fmt.Fprintln(w, "audit: the log is empty")
		return
	}
	verdict := "right"
	if !r.OK {
		verdict = "NOT right"
	}
	fmt.Fprintf(w, "audit: the limiter was %s in %s answers to %s calls on %s\n",
		verdict, amount.Group(r.Admitted+r.Denied), amount.Group(r.Calls), amount.Plural(r.Keys, "key"))

	var over, under, excess, missing, compared, limits, margin, beyond int64
	var doubts, extra []string
	for _, d := range r.Dimensions {
		over, beyond, under = over+d.OverLimits, beyond+d.BeyondBound, under+d.Under
		limits, compared = limits+d.Limits, compared+d.Compared
		excess, missing = excess+d.Excess, missing+d.Missing
		if m := d.Possible - d.Over; m > 0 {
			margin += m
			doubts = append(doubts, quantity(d.Name, m))
		}
		if d.Fallback > 0 {
			extra = append(extra, quantity(d.Name, d.Fallback))
		}
	}
	if over == 0 {
		fmt.Fprintf(w, "- no key was admitted more than its limit (%s, %s)\n", amount.Plural(r.Keys, "key"), amount.Plural(int64(len(r.Dimensions)), "dimension"))
	} else {
		fmt.Fprintf(w, "- %s of %s admitted too much:\n", amount.Group(over), amount.Plural(limits, "limit"))
		for _, o := range r.Over[:min(len(r.Over), maxListed)] {
			if o.Amount > 0 {
				fmt.Fprintf(w, "  %s\n", o)
			}
		}
	}
	if margin > 0 {
		fmt.Fprintf(w, "  margin: calls took up to %v, so up to %s more in total would not be noticed\n", r.SlowestCall.Round(time.Microsecond), strings.Join(doubts, ", "))
	}
	if r.Fallback > 0 {
		fmt.Fprintf(w, "- without the owner %s admitted (%s)", amount.Plural(r.Fallback, "call was", "calls were"), strings.Join(extra, ", "))
		if beyond > 0 {
			fmt.Fprint(w, ", MORE than declared:")
		}
		fmt.Fprintln(w)
		shown := 0
		for _, o := range r.Over {
			if o.BeyondBound > 0 && shown < maxListed {
				fmt.Fprintf(w, "  %s: %s more than its limit of %s declares: %s\n", o.name(), quantity(o.Dimension, o.BeyondBound), o.limit(), o.Declared)
				shown++
			}
		}
	}
	if under == 0 {
		fmt.Fprintln(w, "- no call was denied that certainly had room")
	} else {
		fmt.Fprintf(w, "- %s denied that certainly had room:\n", amount.Plural(under, "call was", "calls were"))
		for _, u := range r.Under[:min(len(r.Under), maxListed)] {
			fmt.Fprintf(w, "  %s\n", u)
		}
	}
	switch {
	case compared == 0:
		fmt.Fprintln(w, "- charges were not compared: the target did not report usage")
	case excess == 0 && missing == 0:
		fmt.Fprintf(w, "- every id was charged once (%s compared)\n", amount.Plural(compared, "limit"))
	default:
		fmt.Fprintf(w, "- charges differ from the log (%s compared):\n", amount.Plural(compared, "limit"))
		for _, c := range r.Charges[:min(len(r.Charges), maxListed)] {
			fmt.Fprintf(w, "  %s\n", c)
		}
	}
	if r.Failed > 0 {
		fmt.Fprintf(w, "- %s no answer and may have been charged or not\n", amount.Plural(r.Failed, "request got", "requests got"))
	}
	if r.Refused > 0 {
		fmt.Fprintf(w, "- %s refused because of overload and must not be charged\n", amount.Plural(r.Refused, "request was", "requests were"))
	}
	if r.DuplicateAdmissions > 0 {
		fmt.Fprintf(w, "- %s admitted more than once without an answer marked as a replay\n", amount.Plural(r.DuplicateAdmissions, "id was", "ids were"))
	}
	for _, reason := range slices.Sorted(maps.Keys(r.OtherDenials)) {
		fmt.Fprintf(w, "- %s: %s, not judged\n", amount.Plural(r.OtherDenials[reason], "denial"), reason)
	}
	if r.Unjudged > 0 {
		fmt.Fprintf(w, "- %s of calls without a known limit, not judged\n", amount.Plural(r.Unjudged, "denial"))
	}
}

// String returns one line, such as "acme/alice: 1,300 requests admitted, 300 more than
// its limit of 1,000".
func (o OverAdmission) String() string {
	excess := o.Amount
	tail := ""
	switch {
	case o.Amount == 0:
		excess, tail = o.WithFallback, ", all in fallback"
	case o.WithFallback > o.Amount:
		tail = ", and " + formatValue(o.Dimension, o.WithFallback-o.Amount) + " in fallback"
	}
	switch {
	case o.Algorithm == Concurrency:
		return fmt.Sprintf("%s: %s calls at once, %s more than its limit of %s%s", o.name(), amount.Group(o.Admitted), amount.Group(excess), amount.Group(o.Limit), tail)
	case o.Window > 0:
		return fmt.Sprintf("%s: %s admitted in the run, at %v %s more than its limit of %s allows%s",
			o.name(), quantity(o.Dimension, o.Admitted), o.At.Round(time.Millisecond), formatValue(o.Dimension, excess), o.limit(), tail)
	default:
		return fmt.Sprintf("%s: %s admitted, %s more than its limit of %s%s",
			o.name(), quantity(o.Dimension, o.Admitted), formatValue(o.Dimension, excess), o.limit(), tail)
	}
}

// String returns one line.
func (u WrongDenial) String() string {
	return fmt.Sprintf("%s: %s denied, the first at %v with at least %s left of its limit of %s",
		u.name(), amount.Plural(u.Calls, "call"), u.First.Round(time.Millisecond), quantity(u.Dimension, u.Room), u.limit())
}

// String returns one line.
func (c ChargeMismatch) String() string {
	want := "exactly " + formatValue(c.Dimension, c.Low)
	if c.Low != c.High {
		want = "between " + formatValue(c.Dimension, c.Low) + " and " + formatValue(c.Dimension, c.High)
	}
	what := formatValue(c.Dimension, c.Missing) + " lost"
	if c.Excess > 0 {
		what = formatValue(c.Dimension, c.Excess) + " charged twice or not given back"
	}
	line := fmt.Sprintf("%s: %s used, want %s: %s", c.name(), quantity(c.Dimension, c.Used), want, what)
	if len(c.Suspects) > 0 {
		line += fmt.Sprintf(" (%s, such as %q, %s)", amount.Plural(c.Suspected, "suspect"), c.Suspects[0].ID, c.Suspects[0].Why)
	}
	return line
}

func (w LimitRef) name() string {
	s := w.Scope
	if w.Name != w.Dimension {
		s += " " + w.Name
	}
	if w.Model != "" {
		s += " (" + w.Model + ")"
	}
	return s
}

func (w LimitRef) limit() string {
	s := formatValue(w.Dimension, w.Limit)
	if w.Window > 0 {
		s += " in " + formatDuration(w.Window)
	}
	if w.Burst > 0 && w.Burst != w.Limit {
		s += " with a burst of " + formatValue(w.Dimension, w.Burst)
	}
	return s
}

// formatDuration shortens 2m0s to 2m.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// quantity formats a number of units of a dimension.
func quantity(dimension string, n int64) string {
	switch dimension {
	case Spend:
		return formatValue(dimension, n)
	case Concurrent:
		return amount.Plural(n, "slot")
	default:
		unit := strings.ReplaceAll(dimension, "_", " ")
		if n == 1 {
			unit = strings.TrimSuffix(unit, "s")
		}
		return amount.Group(n) + " " + unit
	}
}

func formatValue(dimension string, n int64) string {
	if dimension == Spend {
		cents := strings.TrimRight(fmt.Sprintf("%06d", n%1e6), "0")
		return fmt.Sprintf("$%s.%s", amount.Group(n/1e6), cents+strings.Repeat("0", max(0, 2-len(cents))))
	}
	return amount.Group(n)
}
