// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Summary says in plain words what was found.
func (r *Report) Summary() string {
	var b strings.Builder
	r.write(&b)
	return b.String()
}

// listed is how many findings of a kind a summary shows.
const listed = 5

func (r *Report) write(w io.Writer) {
	if r.Events == 0 {
		fmt.Fprintln(w, "audit: the log is empty, nothing was judged")
		return
	}
	verdict := "right"
	if !r.OK {
		verdict = "NOT right"
	}
	fmt.Fprintf(w, "audit: the limiter was %s in %s answers to %s calls on %s\n",
		verdict, grouped(r.Admitted+r.Denied), grouped(r.Calls), count(r.Keys, "key"))

	var over, under, excess, missing, compared, limits, margin, beyond int64
	var doubts, extra []string
	for _, d := range r.Dimensions {
		over, beyond, under = over+d.OverLimits, beyond+d.BeyondBound, under+d.Under
		limits, compared = limits+d.Limits, compared+d.Compared
		excess, missing = excess+d.Excess, missing+d.Missing
		if m := d.Possible - d.Over; m > 0 {
			margin += m
			doubts = append(doubts, amount(d.Name, m))
		}
		if d.Fallback > 0 {
			extra = append(extra, amount(d.Name, d.Fallback))
		}
	}
	if over == 0 {
		fmt.Fprintf(w, "- no key was admitted more than its limit (%s, %s)\n", count(r.Keys, "key"), count(int64(len(r.Dimensions)), "dimension"))
	} else {
		fmt.Fprintf(w, "- %s of %s admitted too much:\n", grouped(over), count(limits, "limit"))
		for _, o := range r.Over[:min(len(r.Over), listed)] {
			if o.Amount > 0 {
				fmt.Fprintf(w, "  %s\n", o)
			}
		}
	}
	if margin > 0 {
		fmt.Fprintf(w, "  margin: calls took up to %v, so up to %s more in all would not be seen\n", r.Slowest.Round(time.Microsecond), strings.Join(doubts, ", "))
	}
	if r.Fallback > 0 {
		fmt.Fprintf(w, "- without the owner %s admitted (%s)", count(r.Fallback, "call was", "calls were"), strings.Join(extra, ", "))
		if beyond > 0 {
			fmt.Fprint(w, ", MORE than was declared:")
		}
		fmt.Fprintln(w)
		shown := 0
		for _, o := range r.Over {
			if o.BeyondBound > 0 && shown < listed {
				fmt.Fprintf(w, "  %s: %s more than its limit of %s declares: %s\n", o.name(), amount(o.Dimension, o.BeyondBound), o.limit(), o.Declared)
				shown++
			}
		}
	}
	if under == 0 {
		fmt.Fprintln(w, "- no call was denied that surely had room")
	} else {
		fmt.Fprintf(w, "- %s denied that surely had room:\n", count(under, "call was", "calls were"))
		for _, u := range r.Under[:min(len(r.Under), listed)] {
			fmt.Fprintf(w, "  %s\n", u)
		}
	}
	switch {
	case compared == 0:
		fmt.Fprintln(w, "- charges were not compared: the target did not tell what was used")
	case excess == 0 && missing == 0:
		fmt.Fprintf(w, "- every id was charged once (%s compared)\n", count(compared, "limit"))
	default:
		fmt.Fprintf(w, "- charges differ from the log (%s compared):\n", count(compared, "limit"))
		for _, c := range r.Charges[:min(len(r.Charges), listed)] {
			fmt.Fprintf(w, "  %s\n", c)
		}
	}
	if r.Failed > 0 {
		fmt.Fprintf(w, "- %s no answer and may have been charged or not\n", count(r.Failed, "question got", "questions got"))
	}
	if r.Again > 0 {
		fmt.Fprintf(w, "- %s admitted more than once without being told that it was a replay\n", count(r.Again, "id was", "ids were"))
	}
	for _, reason := range slices.Sorted(maps.Keys(r.DeniedElse)) {
		fmt.Fprintf(w, "- %s: %s, not judged\n", count(r.DeniedElse[reason], "denial"), reason)
	}
	if r.Unjudged > 0 {
		fmt.Fprintf(w, "- %s of calls without a known limit, not judged\n", count(r.Unjudged, "denial"))
	}
}

// String is one line, such as "acme/alice: 1,300 requests admitted, 300 more than
// its limit of 1,000".
func (o Over) String() string {
	excess := o.Amount
	tail := ""
	switch {
	case o.Amount == 0:
		excess, tail = o.WithFallback, ", all by fallback"
	case o.WithFallback > o.Amount:
		tail = ", and " + number(o.Dimension, o.WithFallback-o.Amount) + " by fallback"
	}
	switch {
	case o.Algorithm == Concurrency:
		return fmt.Sprintf("%s: %s calls at once, %s more than its limit of %s%s", o.name(), grouped(o.Admitted), grouped(excess), grouped(o.Limit), tail)
	case o.Window > 0:
		return fmt.Sprintf("%s: %s admitted in the run, at %v %s more than its limit of %s allows%s",
			o.name(), amount(o.Dimension, o.Admitted), o.At.Round(time.Millisecond), number(o.Dimension, excess), o.limit(), tail)
	default:
		return fmt.Sprintf("%s: %s admitted, %s more than its limit of %s%s",
			o.name(), amount(o.Dimension, o.Admitted), number(o.Dimension, excess), o.limit(), tail)
	}
}

// String is one line.
func (u Under) String() string {
	return fmt.Sprintf("%s: %s denied, the first at %v with at least %s left of its limit of %s",
		u.name(), count(u.Calls, "call"), u.First.Round(time.Millisecond), amount(u.Dimension, u.Room), u.limit())
}

// String is one line.
func (c Charge) String() string {
	want := "exactly " + number(c.Dimension, c.Low)
	if c.Low != c.High {
		want = "between " + number(c.Dimension, c.Low) + " and " + number(c.Dimension, c.High)
	}
	what := number(c.Dimension, c.Missing) + " lost"
	if c.Excess > 0 {
		what = number(c.Dimension, c.Excess) + " charged twice or not given back"
	}
	line := fmt.Sprintf("%s: %s used, want %s: %s", c.name(), amount(c.Dimension, c.Used), want, what)
	if len(c.Suspects) > 0 {
		line += fmt.Sprintf(" (%s, such as %q, %s)", count(c.Suspected, "suspect"), c.Suspects[0].ID, c.Suspects[0].Why)
	}
	return line
}

func (w Which) name() string {
	s := w.Scope
	if w.Name != w.Dimension {
		s += " " + w.Name
	}
	if w.Model != "" {
		s += " (" + w.Model + ")"
	}
	return s
}

func (w Which) limit() string {
	s := number(w.Dimension, w.Limit)
	if w.Window > 0 {
		s += " in " + period(w.Window)
	}
	if w.Burst > 0 && w.Burst != w.Limit {
		s += " with a burst of " + number(w.Dimension, w.Burst)
	}
	return s
}

// period is a duration without the zeros that it ends with.
func period(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// amount is a number of units of a dimension.
func amount(dimension string, n int64) string {
	switch dimension {
	case Spend:
		return number(dimension, n)
	case Concurrent:
		return count(n, "slot")
	default:
		unit := strings.ReplaceAll(dimension, "_", " ")
		if n == 1 {
			unit = strings.TrimSuffix(unit, "s")
		}
		return grouped(n) + " " + unit
	}
}

func number(dimension string, n int64) string {
	if dimension == Spend {
		cents := strings.TrimRight(fmt.Sprintf("%06d", n%1e6), "0")
		return fmt.Sprintf("$%s.%s", grouped(n/1e6), cents+strings.Repeat("0", max(0, 2-len(cents))))
	}
	return grouped(n)
}

// count is "1 key" or "2 keys"; many is for words that do not end in s.
func count(n int64, one string, many ...string) string {
	word := one
	if n != 1 {
		word = one + "s"
		if len(many) > 0 {
			word = many[0]
		}
	}
	return grouped(n) + " " + word
}

// grouped writes thousands apart.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
